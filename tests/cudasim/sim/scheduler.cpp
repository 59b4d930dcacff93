#include "scheduler.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <numeric>

namespace cudasim {
namespace {

constexpr int kErrorLaunchTimeout = 702;
constexpr size_t kResidentBlocks = 4;
constexpr uint64_t kLongSlice = 100'000, kLongQuantum = 4'000;
constexpr unsigned kPatience = 64;  // polls of a block before another one gets its turn

uint32_t with_pc(const Warp& warp, int pc) {
  uint32_t lanes = 0;
  for_each_lane(warp.running, [&](int lane) {
    lanes |= uint32_t{warp.pc[static_cast<size_t>(lane)] == pc} << lane;
  });
  return lanes;
}

void set_pc(Warp& warp, uint32_t lanes, int pc) {
  for_each_lane(lanes, [&](int lane) { warp.pc[static_cast<size_t>(lane)] = pc; });
}

bool meet(const Instruction& a, const Instruction& b) {
  return a.execute == b.execute && a.variant == kMeetsAnywhere;
}

}  // namespace

Scheduler::Scheduler(Grid& grid)
    : grid_(grid), random_(settings().seed * 0x9E3779B97F4A7C15u + launches().size()) {
  const auto& size = grid.grid_size();
  order_.resize(uint64_t{size[0]} * size[1] * size[2]);
  std::iota(order_.begin(), order_.end(), 0);
  std::shuffle(order_.begin(), order_.end(), random_);
  started_.resize(order_.size());
}

// ---- Blocks.

void Scheduler::start_block(uint64_t index) {
  started_[index] = true;
  std::unique_ptr<Block> block;
  if (idle_.empty()) {
    block = std::make_unique<Block>(grid_);
  } else {
    block = std::move(idle_.back());
    idle_.pop_back();
  }
  block->start(index);
  resident_.push_back(std::move(block));
}

void Scheduler::start_next() {
  while (next_in_order_ < order_.size() && started_[order_[next_in_order_]]) ++next_in_order_;
  if (next_in_order_ < order_.size()) start_block(order_[next_in_order_]);
}

// A GPU starts blocks in order, so code that waits for blocks of lower number relies on their being
// started.
void Scheduler::start_lowest() {
  while (lowest_waiting_ < started_.size() && started_[lowest_waiting_]) ++lowest_waiting_;
  if (lowest_waiting_ < started_.size()) start_block(lowest_waiting_);
}

void Scheduler::run() {
  size_t current = 0, fruitless = 0;
  while (!grid_.failed()) {
    while (resident_.size() < kResidentBlocks) {
      const size_t before = resident_.size();
      start_next();
      if (resident_.size() == before) break;
    }
    if (resident_.empty()) return;
    current %= resident_.size();
    const uint64_t slice = below(16) == 0 ? 1 + below(2000) : kLongSlice;
    if (run_slice(*resident_[current], slice)) {
      idle_.push_back(std::move(resident_[current]));
      resident_.erase(resident_.begin() + static_cast<std::ptrdiff_t>(current));
      fruitless = 0;
      continue;
    }
    ++current;
    if (++fruitless >= resident_.size()) {
      start_lowest();
      fruitless = 0;
    }
  }
}

bool Scheduler::over_budget(Warp& warp) {
  if (grid_.warp_instructions <= settings().instruction_budget) return false;
  const int lane = std::countr_zero(warp.alive());
  const Instruction& instruction =
      grid_.program().code[static_cast<size_t>(warp.pc[static_cast<size_t>(lane)])];
  grid_.report(Finding::kFatal, instruction,
               "no progress: stopped after " + std::to_string(grid_.warp_instructions) +
                   " warp instructions",
               warp, lane);
  grid_.fail(kErrorLaunchTimeout);
  return true;
}

bool Scheduler::run_slice(Block& block, uint64_t instructions) {
  uint64_t used = 0;
  block.polls = 0;
  std::vector<Warp*> ready;
  while (used < instructions && block.polls < kPatience) {
    ready.clear();
    for (Warp& warp : block.warps()) {
      if (warp.running != 0) ready.push_back(&warp);
    }
    if (ready.empty()) {
      if (block.alive == 0) return true;
      report_deadlock(block);
      return false;
    }
    Warp& warp = *ready[below(static_cast<unsigned>(ready.size()))];
    const uint64_t quantum = below(4) == 0 ? 1 + below(200) : kLongQuantum;
    used += run_warp(warp, quantum);
    if (grid_.failed() || (warp.alive() != 0 && over_budget(warp))) return false;
  }
  return false;
}

void Scheduler::report_deadlock(Block& block) {
  for (Warp& warp : block.warps()) {
    const uint32_t waiting = warp.at_collective != 0 ? warp.at_collective : warp.at_barrier;
    if (waiting == 0) continue;
    const int lane = std::countr_zero(waiting);
    const Instruction& instruction =
        grid_.program().code[static_cast<size_t>(warp.pc[static_cast<size_t>(lane)])];
    grid_.report(Finding::kFatal, instruction,
                 warp.at_collective != 0
                     ? "deadlock: lanes wait for lanes of their member mask that never come"
                     : "deadlock: threads wait at a barrier for threads that never come",
                 warp, lane);
  }
  grid_.fail(kErrorLaunchTimeout);
}

// ---- Warps.

uint64_t Scheduler::run_warp(Warp& warp, uint64_t quantum) {
  uint64_t used = 0;
  while (warp.running != 0 && used < quantum && !grid_.failed()) {
    int lowest = INT_MAX, next = INT_MAX;
    for_each_lane(warp.running,
                  [&](int lane) { lowest = std::min(lowest, warp.pc[static_cast<size_t>(lane)]); });
    if (warp.starving) {  // the lanes that are behind loop, perhaps until the others have done
                          // something
      lowest = warp.pc[static_cast<size_t>(
          std::countr_zero(std::rotl(warp.running, static_cast<int>(below(32)))))];
      uint32_t lanes = with_pc(warp, lowest);
      if (lanes == 0)
        lanes =
            with_pc(warp, lowest = warp.pc[static_cast<size_t>(std::countr_zero(warp.running))]);
      warp.starving = false;
      used += run_lanes(warp, lanes, INT_MAX, std::min<uint64_t>(quantum - used, 200));
      continue;
    }
    const uint32_t lanes = with_pc(warp, lowest);
    for_each_lane(warp.running & ~lanes,
                  [&](int lane) { next = std::min(next, warp.pc[static_cast<size_t>(lane)]); });
    used += run_lanes(warp, lanes, next, quantum - used);
  }
  warp.starving = used >= kLongQuantum;
  return used;
}

// Runs lanes that are at the same instruction until they part, wait, leave, or reach `stop`.
uint64_t Scheduler::run_lanes(Warp& warp, uint32_t lanes, int stop, uint64_t quantum) {
  const Instruction* const code = grid_.program().code.data();
  int pc = warp.pc[static_cast<size_t>(std::countr_zero(lanes))];
  uint64_t used = 0;
  while (pc < stop && used < quantum) {
    const Instruction& instruction = code[pc];
    const uint32_t active = lanes & warp.guard(instruction);
    ++used;
    ++grid_.warp_instructions;
    if (!grid_.executed.empty()) grid_.executed[static_cast<size_t>(pc)] = true;
    grid_.lane_instructions += static_cast<unsigned>(std::popcount(active));
    switch (instruction.flow) {
      case Flow::kNext:
        if (active != 0) instruction.execute(instruction, warp, active);
        ++pc;
        if (grid_.failed()) return used;
        break;
      case Flow::kBranch:
        if (active == lanes) {
          pc = instruction.target;
        } else if (active == 0) {
          ++pc;
        } else {
          branch(warp, instruction, pc, lanes, active);
          return used;
        }
        break;
      case Flow::kIndexedBranch:
        branch(warp, instruction, pc, lanes, active);
        return used;
      case Flow::kExit:
        leave(warp, pc, lanes, active);
        return used;
      case Flow::kBarrier:
        arrive(warp, instruction, pc, lanes, active);
        return used;
      case Flow::kCollective:
        if (active == kAllLanes && warp.at_collective == 0) {
          instruction.execute(instruction, warp, active);
          ++pc;
        } else {
          collect(warp, instruction, pc, lanes, active);
          return used;
        }
    }
  }
  set_pc(warp, lanes, pc);
  return used;
}

void Scheduler::branch(Warp& warp, const Instruction& instruction, int pc, uint32_t lanes,
                       uint32_t taken) {
  set_pc(warp, lanes & ~taken, pc + 1);
  if (instruction.flow == Flow::kBranch) return set_pc(warp, taken, instruction.target);
  const uint64_t* index = warp.row(instruction.in[0]);
  for_each_lane(taken, [&](int lane) {
    const auto which = static_cast<uint32_t>(index[lane]);
    if (which >= instruction.targets.size()) {
      grid_.report(Finding::kFatal, instruction, "the index of a branch is out of range", warp,
                   lane);
      grid_.fail(kErrorLaunchTimeout);
      return;
    }
    warp.pc[static_cast<size_t>(lane)] = instruction.targets[which];
  });
}

void Scheduler::leave(Warp& warp, int pc, uint32_t lanes, uint32_t leaving) {
  set_pc(warp, lanes, pc + 1);
  warp.running &= ~leaving;
  Block& block = warp.block();
  block.alive -= static_cast<unsigned>(std::popcount(leaving));
  // Those who waited for the leaving lanes look again.
  warp.running |= warp.at_collective;
  warp.at_collective = 0;
  for (unsigned id = 0; id < block.barriers.size(); ++id) release_if_complete(block, id);
}

// Lanes that come to a collective go on together with the living lanes that their member masks
// name.
void Scheduler::collect(Warp& warp, const Instruction& instruction, int pc, uint32_t lanes,
                        uint32_t arriving) {
  set_pc(warp, lanes & ~arriving, pc + 1);
  set_pc(warp, arriving, pc);
  warp.running &= ~arriving;
  warp.at_collective |= arriving;
  const auto* code = grid_.program().code.data();
  const auto instruction_of = [&](int lane) -> const Instruction& {
    return code[warp.pc[static_cast<size_t>(lane)]];
  };
  uint32_t here = 0;
  for_each_lane(warp.at_collective, [&](int lane) {
    const Instruction& other = instruction_of(lane);
    here |= uint32_t{&other == &instruction || meet(other, instruction)} << lane;
  });
  const uint32_t alive = warp.alive();
  uint32_t complete = 0;
  for_each_lane(here, [&](int lane) {
    const Instruction& own = instruction_of(lane);
    const auto members = static_cast<uint32_t>(warp.row(own.in[own.inputs - 1u])[lane]);
    complete |= uint32_t{(members & alive & ~here) == 0} << lane;
  });
  if (complete == 0) return;
  instruction.execute(instruction, warp, complete);
  for_each_lane(complete, [&](int lane) { ++warp.pc[static_cast<size_t>(lane)]; });
  warp.at_collective &= ~complete;
  warp.running |= complete;
}

void Scheduler::arrive(Warp& warp, const Instruction& instruction, int pc, uint32_t lanes,
                       uint32_t arriving) {
  const Barrier& barrier = *instruction.barrier;
  Block& block = warp.block();
  set_pc(warp, lanes & ~arriving, pc + 1);
  if (arriving == 0) return;
  const int first = std::countr_zero(arriving);
  const auto id = static_cast<unsigned>(warp.row(barrier.id)[first] & 15);
  BarrierState& state = block.barriers[id];
  const auto threads = static_cast<unsigned>(std::popcount(arriving));
  if (state.pc >= 0 && state.pc != pc) state.several_places = true;
  state.pc = pc;
  if (barrier.arrive_only) {
    set_pc(warp, arriving, pc + 1);
    state.arrived += threads;
  } else {
    set_pc(warp, arriving, pc);
    warp.running &= ~arriving;
    warp.at_barrier |= arriving;
    state.waiting += threads;
  }
  if (barrier.reduction != Barrier::Reduction::kNone) {
    state.votes +=
        static_cast<unsigned>(std::popcount(arriving & warp.predicate(barrier.predicate)));
  }
  if (barrier.has_count) state.expected = static_cast<unsigned>(warp.row(barrier.count)[first]);
  release_if_complete(block, id);
}

void Scheduler::release_if_complete(Block& block, unsigned id) {
  BarrierState& state = block.barriers[id];
  if (state.waiting == 0) return;
  const bool counted = state.expected != 0;
  if (state.waiting + state.arrived < (counted ? state.expected : block.alive)) return;
  const Instruction* const code = grid_.program().code.data();
  if (state.several_places && !counted) {
    grid_.report(Finding::kBarrierDivergence, code[state.pc],
                 "divergent barrier: threads of a block wait at different barriers");
  }
  if (!counted && block.alive != grid_.threads()) {
    grid_.report(Finding::kBarrierDivergence, code[state.pc],
                 "divergent barrier: " + std::to_string(grid_.threads() - block.alive) +
                     " threads of the block had left before it");
  }
  for (Warp& warp : block.warps()) {
    for_each_lane(warp.at_barrier, [&](int lane) {
      const Instruction& instruction = code[warp.pc[static_cast<size_t>(lane)]];
      const Barrier& barrier = *instruction.barrier;
      if ((warp.row(barrier.id)[lane] & 15) != id) return;
      const uint32_t bit = 1u << lane;
      if (barrier.reduction == Barrier::Reduction::kPopc) {
        warp.row(instruction.out)[lane] = state.votes;
      } else if (barrier.reduction != Barrier::Reduction::kNone) {
        const bool all = barrier.reduction == Barrier::Reduction::kAnd;
        warp.set_predicate(instruction.out, bit,
                           (all ? state.votes == state.waiting : state.votes != 0) ? bit : 0);
      }
      ++warp.pc[static_cast<size_t>(lane)];
      warp.at_barrier &= ~bit;
      warp.running |= bit;
    });
  }
  state = {};
  ++block.epoch;
}

}  // namespace cudasim
