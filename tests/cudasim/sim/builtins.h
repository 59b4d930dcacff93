// What a kernel can call that is not PTX: __assertfail, vprintf; and trap and nanosleep.
#pragma once

#include <string>

#include "program.h"

namespace cudasim {

// Null if the name is not known. The arguments are in local memory, at the offsets that
// Instruction::parts hold.
Handler find_builtin(const std::string& name);

}  // namespace cudasim
