// The state of a running launch: grid, blocks, warps.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "cudasim.h"
#include "memory.h"
#include "program.h"
#include "sites.h"

namespace cudasim {

class Block;
class Grid;

template <class F>
void for_each_lane(uint32_t lanes, F f) {
  for (; lanes != 0; lanes &= lanes - 1) f(std::countr_zero(lanes));
}

class Warp {
 public:
  Warp(Block& block, unsigned id, unsigned lanes);
  void start();  // at the first instruction, in a fresh block

  uint64_t* row(const Operand& operand) {
    return banks_[static_cast<size_t>(operand.bank)] + operand.row * kLanes;
  }
  uint64_t* special(Special which) {
    return specials_.data() + static_cast<size_t>(which) * kLanes;
  }
  uint32_t predicate(const Operand& operand) const {
    const uint32_t mask = predicates_[operand.row];
    return operand.negated ? ~mask : mask;
  }
  void set_predicate(const Operand& operand, uint32_t active, uint32_t value) {
    uint32_t& mask = predicates_[operand.row];
    mask = (mask & ~active) | (value & active);
  }
  uint32_t guard(const Instruction& instruction) const {
    const uint32_t mask = predicates_[instruction.guard];
    return instruction.guard_negated ? ~mask : mask;
  }

  unsigned id() const { return id_; }
  unsigned thread(int lane) const { return id_ * kLanes + static_cast<unsigned>(lane); }
  uint32_t lanes() const { return lanes_; }
  Block& block() const { return block_; }
  Grid& grid() const;
  unsigned char* local(int lane) {
    return local_.data() + static_cast<size_t>(lane) * local_stride_;
  }

  // What __syncwarp orders. ordered(): has `lane` synchronised with lanes `others` since their
  // clock was `clock`?
  void synchronise(uint32_t members);
  bool ordered(int lane, uint32_t others, uint32_t clock) const;
  uint32_t clock(int lane) const { return clock_[static_cast<size_t>(lane)]; }

  // Scheduling: a lane is in one of these, or it is done.
  uint32_t running = 0, at_barrier = 0, at_collective = 0;
  uint32_t alive() const { return running | at_barrier | at_collective; }
  bool starving = false;  // it spent its time in a loop: other lanes of it may have to go first
  std::array<int, kLanes> pc{};
  uint32_t carry = 0;  // the CC register of add.cc and its like

 private:
  Block& block_;
  unsigned id_;
  uint32_t lanes_;
  std::array<uint64_t*, 3> banks_{};
  std::vector<uint64_t> registers_, specials_;
  std::vector<uint32_t> predicates_;
  std::vector<unsigned char> local_;
  size_t local_stride_;
  std::array<uint32_t, kLanes> clock_{};
  std::array<uint32_t, kLanes> seen_by_all_{};  // clocks at the last __syncwarp() of all lanes
  std::array<std::array<uint32_t, kLanes>, kLanes> seen_{};  // [lane][other]: of some lanes
  bool partly_synchronised_ = false;
};

// How blocks learn of one another: the blocks whose earlier writes this one may rely on.
struct Synchronisation {
  std::vector<uint32_t> acquired;         // by an acquiring load, or a load and then a fence
  std::vector<uint32_t> pending;          // loaded from; a fence has to follow
  std::vector<uint32_t> through_atomics;  // read-modify-writes pass on what came before
  bool fenced = false;
};

// One of the 16 barriers of a block.
struct BarrierState {
  unsigned waiting = 0, arrived = 0;  // threads; the latter did bar.arrive
  unsigned expected = 0;              // 0: all living threads of the block
  unsigned votes = 0;                 // of bar.red
  int pc = -1;                        // of the thread that came last
  bool several_places = false;
};

class Block {
 public:
  explicit Block(Grid& grid);
  void start(uint64_t index);

  Grid& grid() const { return grid_; }
  uint64_t index() const { return index_; }
  const std::array<unsigned, 3>& position() const { return position_; }
  std::vector<Warp>& warps() { return warps_; }
  Region& shared() { return shared_; }

  // Messages to other blocks, through synchronising accesses of global memory and fences.
  void fence();
  void receive(uint32_t from, const MemoryAccess& access);
  bool has_fenced() const { return synchronisation_ != nullptr && synchronisation_->fenced; }
  bool follows(uint32_t other) const;  // may it rely on what the other block has written?

  uint32_t serial = 0;  // over all launches
  uint32_t epoch = 0;   // barriers passed
  unsigned polls = 0;   // signs of waiting for another block, in this slice of time
  unsigned alive = 0;   // threads
  std::array<BarrierState, 16> barriers;
  SectorCaches caches;

 private:
  Synchronisation& synchronisation();

  Grid& grid_;
  Synchronisation* synchronisation_ = nullptr;
  uint64_t index_ = 0;
  std::array<unsigned, 3> position_{};
  std::vector<unsigned char> shared_bytes_;
  Region shared_;
  std::vector<Warp> warps_;
};

// Kinds of report; each is made once per instruction and launch.
enum class Finding : uint8_t {
  kReadAfterWrite,
  kWriteAfterWrite,
  kWriteAfterRead,
  kUninitialised,
  kNonCoherent,
  kShuffle,
  kBarrierDivergence,
  kMembership,
  kFatal
};

// One launch.
class Grid {
 public:
  Grid(const Program& program, const unsigned (&grid)[3], const unsigned (&block)[3],
       void** arguments, size_t dynamic_shared);
  int run();  // a cudaError_t

  const Program& program() const { return program_; }
  const std::array<unsigned, 3>& grid_size() const { return grid_size_; }
  const std::array<unsigned, 3>& block_size() const { return block_size_; }
  unsigned threads() const { return block_size_[0] * block_size_[1] * block_size_[2]; }
  size_t shared_bytes() const { return shared_bytes_; }
  size_t dynamic_shared() const { return dynamic_shared_; }
  std::vector<unsigned char>& parameters() { return parameters_; }
  const ByteFlags& shared_addressable() const { return shared_addressable_; }
  uint32_t first_serial() const { return first_serial_; }
  uint32_t next_serial() { return ++last_serial_; }

  void report(Finding finding, const Instruction& instruction, const std::string& message);
  void report(Finding finding, const Instruction& instruction, const std::string& message,
              const Warp& warp, int lane);
  // Ends the launch with a cudaError_t.
  void fail(int error) { error_ = error_ == 0 ? error : error_; }
  bool failed() const { return error_ != 0; }

  std::unordered_map<uint32_t, Synchronisation> synchronisations;  // by the block's serial number
  SiteTable sites;
  uint64_t warp_instructions = 0, lane_instructions = 0;
  std::vector<bool> executed;  // by instruction; empty without settings().cover

 private:
  bool valid_configuration();

  const Program& program_;
  std::array<unsigned, 3> grid_size_, block_size_;
  size_t dynamic_shared_, shared_bytes_;
  std::vector<unsigned char> parameters_;
  ByteFlags shared_addressable_;
  uint32_t first_serial_;
  static inline uint32_t last_serial_ = 0;
  std::vector<uint16_t> findings_;  // per instruction, one bit per kind
  int error_ = 0;
};

inline Grid& Warp::grid() const { return block_.grid(); }

}  // namespace cudasim
