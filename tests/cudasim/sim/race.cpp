#include "race.h"

#include <algorithm>
#include <bit>
#include <string>

namespace cudasim {
namespace {

// One lane that touches memory now.
struct Toucher {
  Warp& warp;
  int lane;
  bool synchronising;
  // Older blocks do not matter: they are another launch's, or shared memory's last owner.
  uint32_t first_block;

  uint32_t block() const { return warp.block().serial; }
  uint32_t epoch() const { return warp.block().epoch; }
  uint32_t bit() const { return 1u << lane; }

  bool after(const Accessors& others) const {
    if (others.several_blocks) return false;
    if (others.block != block()) return warp.block().follows(others.block);
    if (others.epoch < epoch()) return true;
    if (others.several_warps || others.warp != warp.id()) return false;
    return warp.ordered(lane, others.lanes, others.clock);
  }

  bool conflicts(const Accessors& others) const {
    if (others.block < first_block || (synchronising && others.synchronising)) return false;
    return !after(others);
  }

  // Replaces the accessors if all of them came before; otherwise the lane joins them. There is room
  // for the lanes of one warp: of more there only remains that they were several.
  void enter(Accessors& accessors) const {
    const uint32_t clock = warp.clock(lane);
    const bool same_epoch = accessors.block == block() && accessors.epoch == epoch();
    if (same_epoch && accessors.warp == warp.id() && accessors.clock == clock) {
      accessors.lanes |= bit();
      accessors.synchronising &= synchronising;
      return;
    }
    Accessors joined{.block = block(),
                     .epoch = epoch(),
                     .clock = clock,
                     .lanes = bit(),
                     .warp = static_cast<uint8_t>(warp.id()),
                     .synchronising = synchronising};
    if (accessors.block >= first_block && !after(accessors)) {
      joined.synchronising &= accessors.synchronising;
      joined.several_blocks = accessors.several_blocks || accessors.block != block();
      joined.several_warps = same_epoch && (accessors.several_warps || accessors.warp != warp.id());
      if (same_epoch && accessors.warp == warp.id()) {
        joined.lanes |= accessors.lanes;
        joined.clock = std::min(clock, accessors.clock);
      }
    }
    accessors = joined;
  }
};

void report_race(Finding finding, const Instruction& instruction, bool shared,
                 const Toucher& toucher, const Accessors& others) {
  const char* kind = finding == Finding::kReadAfterWrite    ? "read after write"
                     : finding == Finding::kWriteAfterWrite ? "write after write"
                                                            : "write after read";
  std::string with = "another block";
  if (others.block == toucher.block() && !others.several_blocks) {
    const auto lane = static_cast<unsigned>(std::countr_zero(others.lanes & ~toucher.bit()));
    with = "thread " + std::to_string(others.warp * 32u + lane % 32) + " of the same block";
  }
  toucher.warp.grid().report(finding, instruction,
                             std::string("data race in ") + (shared ? "shared" : "global") +
                                 " memory (" + kind + ") with " + with,
                             toucher.warp, toucher.lane);
}

// The lane sees a value that another block has released.
void receive_message(const Toucher& toucher, const MemoryAccess& memory, const Accessors& writers) {
  if (!writers.released || writers.block < toucher.first_block) return;
  if (writers.block != toucher.block()) toucher.warp.block().receive(writers.block, memory);
}

void note_read(const Instruction& instruction, bool shared, const Toucher& toucher,
               Granule& granule) {
  const MemoryAccess& memory = *instruction.memory;
  if (toucher.conflicts(granule.writers)) {
    report_race(Finding::kReadAfterWrite, instruction, shared, toucher, granule.writers);
  }
  if (memory.non_coherent && granule.writers.block >= toucher.first_block) {
    toucher.warp.grid().report(
        Finding::kNonCoherent, instruction,
        "a read-only (.nc) load of global memory that this launch has written", toucher.warp,
        toucher.lane);
  }
  if (memory.synchronising && !shared) receive_message(toucher, memory, granule.writers);
  toucher.enter(granule.readers);
}

void note_write(const Instruction& instruction, bool shared, const Toucher& toucher,
                Granule& granule) {
  const MemoryAccess& memory = *instruction.memory;
  if (toucher.conflicts(granule.writers)) {
    report_race(Finding::kWriteAfterWrite, instruction, shared, toucher, granule.writers);
  }
  if (toucher.conflicts(granule.readers)) {
    report_race(Finding::kWriteAfterRead, instruction, shared, toucher, granule.readers);
  }
  bool passes_on = false;
  if (memory.atomic && !shared) {
    receive_message(toucher, memory, granule.writers);
    passes_on = granule.writers.block >= toucher.first_block && granule.writers.released;
  }
  toucher.enter(granule.writers);
  granule.writers.released =
      memory.synchronising && (passes_on || memory.release || toucher.warp.block().has_fenced());
}

}  // namespace

void note_access(const Instruction& instruction, Warp& warp, Region& region, bool shared,
                 const Addresses& addresses, uint32_t active) {
  const MemoryAccess& memory = *instruction.memory;
  const uint32_t first_block = shared ? warp.block().serial : warp.grid().first_serial();
  region.refine(memory.element_bytes);
  const unsigned shift = region.granule_shift();
  const unsigned count = std::max(1u, memory.bytes() >> shift);
  const uint64_t bytes_of_granule = (uint64_t{1} << (1u << shift)) - 1;
  for_each_lane(active, [&](int lane) {
    const Toucher toucher{warp, lane, memory.synchronising, first_block};
    Granule* const granules = region.granules(addresses[static_cast<size_t>(lane)]);
    for (unsigned i = 0; i < count; ++i) {
      if ((memory.used_bytes >> (i << shift) & bytes_of_granule) == 0) continue;
      if (memory.write) {
        note_write(instruction, shared, toucher, granules[i]);
      } else {
        note_read(instruction, shared, toucher, granules[i]);
      }
    }
  });
}

}  // namespace cudasim
