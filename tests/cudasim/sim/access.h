// Loads, stores and atomics: addresses are checked, bytes move, and the shadow learns who did it.
#pragma once

#include <string>

#include "program.h"

namespace cudasim {

// Null if there is none. `type` is "u32", "f64", ...; an atomic's operation is "add", "cas", ...
Handler load_handler(const std::string& type);
Handler store_handler(const std::string& type);
Handler atomic_handler(const std::string& operation, const std::string& type);

}  // namespace cudasim
