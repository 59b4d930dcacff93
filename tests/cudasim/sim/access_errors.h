// What is wrong with an address, in words.
#pragma once

#include <cstdint>

#include "machine.h"
#include "race.h"

namespace cudasim {

// Reports that a lane has left the memory of a space ("global", "shared", ...), and fails the grid.
void fail_out_of_bounds(const Instruction& instruction, Warp& warp, int lane, uint64_t address,
                        const char* space);

// Reports addresses that are not multiples of the access, and fails the grid.
bool aligned(const Instruction& instruction, Warp& warp, const Addresses& addresses,
             uint32_t active);

}  // namespace cudasim
