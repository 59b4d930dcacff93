#include "access_errors.h"

#include <cstdio>
#include <string>

namespace cudasim {
namespace {

constexpr int kErrorMisaligned = 716, kErrorIllegalAddress = 700;

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string verb(const MemoryAccess& memory) {
  return std::string(memory.atomic  ? "atomic on "
                     : memory.write ? "write of "
                                    : "read of ") +
         std::to_string(memory.bytes()) + " bytes";
}

void fail(const Instruction& instruction, Warp& warp, int lane, int error,
          const std::string& message) {
  warp.grid().report(Finding::kFatal, instruction, message, warp, lane);
  warp.grid().fail(error);
}

std::string describe_end(uint64_t address, unsigned bytes, uint64_t end, const std::string& what) {
  if (address >= end) return std::to_string(address - end) + " bytes past the end of " + what;
  return "the last " + std::to_string(address + bytes - end) + " bytes are past the end of " + what;
}

std::string describe_global(uint64_t address, unsigned bytes) {
  const Region* before = global_memory().before(address);
  const Region* after = global_memory().after(address);
  const auto allocation = [](const Region& region) {
    return std::to_string(region.bytes()) + "-byte allocation";
  };
  constexpr uint64_t kNear = uint64_t{1} << 24;
  if (before != nullptr && address + bytes - before->end() < kNear) {
    return describe_end(address, bytes, before->end(), "a " + allocation(*before));
  }
  if (after != nullptr && after->begin() - address < kNear) {
    return std::to_string(after->begin() - address) + " bytes before a " + allocation(*after);
  }
  return address < 4096 ? "a null pointer" : "not device memory";
}

std::string describe_shared(const Grid& grid, uint64_t address, unsigned bytes) {
  const Program& program = grid.program();
  if (program.uses_dynamic_shared && address + bytes > grid.shared_bytes()) {
    return describe_end(address, bytes, grid.shared_bytes(),
                        std::to_string(grid.dynamic_shared()) + " bytes of dynamic shared memory");
  }
  const SharedArray* before = nullptr;
  for (const SharedArray& array : program.shared_arrays) {
    if (array.begin <= address) before = &array;
  }
  if (before == nullptr) return "byte " + std::to_string(address);
  return describe_end(
      address, bytes, before->end,
      "`" + before->name + "` (" + std::to_string(before->end - before->begin) + " bytes)");
}

}  // namespace

void fail_out_of_bounds(const Instruction& instruction, Warp& warp, int lane, uint64_t address,
                        const char* space) {
  const MemoryAccess& memory = *instruction.memory;
  const std::string kind = space;
  const std::string where = kind == "global" ? describe_global(address, memory.bytes())
                            : kind == "shared"
                                ? describe_shared(warp.grid(), address, memory.bytes())
                                : "byte " + std::to_string(address);
  fail(instruction, warp, lane, kErrorIllegalAddress,
       kind + " memory out of bounds: " + verb(memory) + " at " + hex(address) + ", " + where);
}

bool aligned(const Instruction& instruction, Warp& warp, const Addresses& addresses,
             uint32_t active) {
  const unsigned bytes = instruction.memory->bytes();
  uint64_t bits = 0;
  for_each_lane(active, [&](int lane) { bits |= addresses[static_cast<size_t>(lane)]; });
  if ((bits & (bytes - 1)) == 0) return true;
  for_each_lane(active, [&](int lane) {
    const uint64_t address = addresses[static_cast<size_t>(lane)];
    if ((address & (bytes - 1)) == 0 || warp.grid().failed()) return;
    fail(instruction, warp, lane, kErrorMisaligned,
         "misaligned " + verb(*instruction.memory) + " at " + hex(address));
  });
  return false;
}

}  // namespace cudasim
