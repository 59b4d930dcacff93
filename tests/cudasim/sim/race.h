// Data races, by a shadow of memory that remembers who read and wrote each granule last.
#pragma once

#include <array>
#include <cstdint>

#include "machine.h"

namespace cudasim {

using Addresses = std::array<uint64_t, kLanes>;

// Reports what the access conflicts with, and enters it into the shadow of the region.
//
// Two accesses conflict if one of them writes, they are not both synchronising (atomic, volatile,
// relaxed, ...), and nothing orders them: program order, a barrier, __syncwarp(), or a message from
// block to block (fence, synchronising write; synchronising read, fence).
void note_access(const Instruction& instruction, Warp& warp, Region& region, bool shared,
                 const Addresses& addresses, uint32_t active);

}  // namespace cudasim
