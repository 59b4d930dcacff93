// Which block, which warp and which lanes run next.
//
// Blocks start in shuffled order, a few are resident at a time, and warps of a block take turns in
// random order. The lanes of a warp that are furthest behind in the code run first: where branches
// meet again, so do the lanes.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "machine.h"

namespace cudasim {

class Scheduler {
 public:
  explicit Scheduler(Grid& grid);
  void run();

 private:
  // Blocks.
  void start_block(uint64_t index);
  void start_next();
  void start_lowest();
  bool run_slice(Block& block, uint64_t instructions);  // true: the block has finished
  void report_deadlock(Block& block);
  bool over_budget(Warp& warp);

  // Warps.
  uint64_t run_warp(Warp& warp, uint64_t quantum);
  uint64_t run_lanes(Warp& warp, uint32_t lanes, int stop, uint64_t quantum);
  void branch(Warp& warp, const Instruction& instruction, int pc, uint32_t lanes, uint32_t taken);
  void leave(Warp& warp, int pc, uint32_t lanes, uint32_t leaving);
  void collect(Warp& warp, const Instruction& instruction, int pc, uint32_t lanes,
               uint32_t arriving);
  void arrive(Warp& warp, const Instruction& instruction, int pc, uint32_t lanes,
              uint32_t arriving);
  void release_if_complete(Block& block, unsigned id);
  unsigned below(unsigned bound) { return static_cast<unsigned>(random_() % bound); }

  Grid& grid_;
  std::mt19937_64 random_;
  std::vector<uint32_t> order_;  // in which blocks start
  size_t next_in_order_ = 0;
  uint64_t lowest_waiting_ = 0;
  std::vector<bool> started_;
  std::vector<std::unique_ptr<Block>> resident_, idle_;
};

}  // namespace cudasim
