// The modules and kernels of this process.
#pragma once

#include <string>
#include <vector>

#include "program.h"

namespace cudasim {

std::vector<int> architectures();  // that have PTX in this process, in ascending order

// The kernel of settings().arch, decoded; null if there is none, and a report says so. Throws
// ptx::Error.
const Program* find_kernel(const std::string& name);

}  // namespace cudasim
