#include "machine.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "report.h"
#include "scheduler.h"

namespace cudasim {
namespace {

constexpr int kErrorInvalidConfiguration = 9;
constexpr uint64_t kMaxBlocks = uint64_t{1} << 28;
constexpr size_t kMaxStaticShared = 48 << 10, kMaxShared = 227 << 10;

// A value that nobody takes for a result, in registers and shared memory that were not written.
constexpr uint64_t kPoison = 0xDEADBEEFDEADBEEF;

}  // namespace

// ---- Warp.

Warp::Warp(Block& block, unsigned id, unsigned lanes)
    : block_(block),
      id_(id),
      lanes_(lanes >= kLanes ? kAllLanes : (1u << lanes) - 1),
      registers_(size_t{block.grid().program().registers} * kLanes, kPoison),
      specials_(static_cast<size_t>(Special::kCount) * kLanes),
      predicates_(block.grid().program().predicates),
      local_(block.grid().program().local_bytes * kLanes, 0xff),
      local_stride_(block.grid().program().local_bytes) {
  const Grid& grid = block.grid();
  banks_ = {registers_.data(), const_cast<uint64_t*>(grid.program().constants.data()),
            specials_.data()};
  const auto& size = grid.block_size();
  for (int lane = 0; lane < kLanes; ++lane) {
    const unsigned t = thread(lane);
    const uint32_t bit = 1u << lane;
    const auto set = [&](Special which, uint64_t value) { special(which)[lane] = value; };
    set(Special::kTidX, t % size[0]);
    set(Special::kTidY, t / size[0] % size[1]);
    set(Special::kTidZ, t / size[0] / size[1]);
    set(Special::kNtidX, size[0]);
    set(Special::kNtidY, size[1]);
    set(Special::kNtidZ, size[2]);
    set(Special::kNctaidX, grid.grid_size()[0]);
    set(Special::kNctaidY, grid.grid_size()[1]);
    set(Special::kNctaidZ, grid.grid_size()[2]);
    set(Special::kLaneId, static_cast<uint64_t>(lane));
    set(Special::kWarpId, id_);
    set(Special::kWarps, (grid.threads() + kLanes - 1) / kLanes);
    set(Special::kLanemaskEq, bit);
    set(Special::kLanemaskLt, bit - 1);
    set(Special::kLanemaskLe, bit | (bit - 1));
    set(Special::kLanemaskGt, ~(bit | (bit - 1)));
    set(Special::kLanemaskGe, ~(bit - 1));
    set(Special::kDynamicShared, grid.dynamic_shared());
    set(Special::kTotalShared, grid.program().static_shared + grid.dynamic_shared());
  }
}

void Warp::start() {
  std::fill(predicates_.begin(), predicates_.end(), 0);
  predicates_[kTruePredicate] = kAllLanes;
  running = lanes_;
  at_barrier = at_collective = 0;
  starving = false;
  pc.fill(0);
  carry = 0;
  clock_.fill(1);
  seen_by_all_.fill(0);
  if (partly_synchronised_) {
    for (auto& row : seen_) row.fill(0);
    partly_synchronised_ = false;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    special(Special::kCtaidX)[lane] = block_.position()[0];
    special(Special::kCtaidY)[lane] = block_.position()[1];
    special(Special::kCtaidZ)[lane] = block_.position()[2];
  }
}

void Warp::synchronise(uint32_t members) {
  if (members == lanes_) {
    for (size_t lane = 0; lane < kLanes; ++lane) seen_by_all_[lane] = clock_[lane]++;
    return;
  }
  partly_synchronised_ = true;
  std::array<uint32_t, kLanes> joint{};
  for_each_lane(members, [&](int member) {
    const auto m = static_cast<size_t>(member);
    for (size_t other = 0; other < kLanes; ++other)
      joint[other] = std::max(joint[other], seen_[m][other]);
    joint[m] = std::max(joint[m], clock_[m]);
  });
  for_each_lane(members, [&](int member) {
    seen_[static_cast<size_t>(member)] = joint;
    ++clock_[static_cast<size_t>(member)];
  });
}

bool Warp::ordered(int lane, uint32_t others, uint32_t clock) const {
  bool all = true;
  for_each_lane(others & ~(1u << lane), [&](int other) {
    const auto o = static_cast<size_t>(other);
    all = all && std::max(seen_by_all_[o], seen_[static_cast<size_t>(lane)][o]) >= clock;
  });
  return all;
}

// ---- Block.

Block::Block(Grid& grid)
    : grid_(grid),
      shared_bytes_(grid.shared_bytes() + 8),
      shared_(0, grid.shared_bytes(), shared_bytes_.data(), false) {
  const unsigned threads = grid.threads();
  warps_.reserve((threads + kLanes - 1) / kLanes);
  for (unsigned first = 0; first < threads; first += kLanes)
    warps_.emplace_back(*this, first / kLanes, threads - first);
}

void Block::start(uint64_t index) {
  index_ = index;
  const auto& size = grid_.grid_size();
  position_ = {static_cast<unsigned>(index % size[0]),
               static_cast<unsigned>(index / size[0] % size[1]),
               static_cast<unsigned>(index / size[0] / size[1])};
  serial = grid_.next_serial();
  epoch = 1;
  synchronisation_ = nullptr;
  polls = 0;
  alive = grid_.threads();
  barriers = {};
  caches.loads.clear();
  caches.stores.clear();
  std::memset(shared_bytes_.data(), 0xff, shared_bytes_.size());
  shared_.written().assign(0, shared_.bytes(), false);
  for (Warp& warp : warps_) warp.start();
}

Synchronisation& Block::synchronisation() {
  if (synchronisation_ == nullptr) synchronisation_ = &grid_.synchronisations[serial];
  return *synchronisation_;
}

void Block::fence() {
  Synchronisation& own = synchronisation();
  own.fenced = true;
  own.acquired.insert(own.acquired.end(), own.pending.begin(), own.pending.end());
  own.pending.clear();
}

void Block::receive(uint32_t from, const MemoryAccess& access) {
  const auto add = [from](std::vector<uint32_t>& blocks) {
    if (std::find(blocks.begin(), blocks.end(), from) == blocks.end()) blocks.push_back(from);
  };
  add(access.acquire ? synchronisation().acquired : synchronisation().pending);
  if (access.atomic) add(synchronisation().through_atomics);
}

bool Block::follows(uint32_t other) const {
  if (synchronisation_ == nullptr || synchronisation_->acquired.empty()) return false;
  std::vector<uint32_t> reached = synchronisation_->acquired;
  std::unordered_set<uint32_t> known(reached.begin(), reached.end());
  while (!reached.empty() && !known.contains(other)) {
    const auto next = grid_.synchronisations.find(reached.back());
    reached.pop_back();
    if (next == grid_.synchronisations.end()) continue;
    for (const auto* blocks : {&next->second.acquired, &next->second.through_atomics}) {
      for (const uint32_t block : *blocks) {
        if (known.insert(block).second) reached.push_back(block);
      }
    }
  }
  return known.contains(other);
}

// ---- Grid.

Grid::Grid(const Program& program, const unsigned (&grid)[3], const unsigned (&block)[3],
           void** arguments, size_t dynamic_shared)
    : sites(program),
      program_(program),
      grid_size_{grid[0], grid[1], grid[2]},
      block_size_{block[0], block[1], block[2]},
      dynamic_shared_(dynamic_shared),
      shared_bytes_(program.dynamic_shared_begin +
                    (program.uses_dynamic_shared ? dynamic_shared : 0)),
      parameters_(program.parameter_bytes),
      shared_addressable_(shared_bytes_ + 64, false),
      first_serial_(last_serial_ + 1),
      findings_(program.code.size()) {
  for (size_t i = 0; i < program.parameters.size(); ++i) {
    std::memcpy(parameters_.data() + program.parameters[i].offset, arguments[i],
                program.parameters[i].bytes);
  }
  for (const SharedArray& array : program.shared_arrays) {
    shared_addressable_.assign(array.begin, array.end - array.begin, true);
  }
  if (program.uses_dynamic_shared)
    shared_addressable_.assign(program.dynamic_shared_begin, dynamic_shared, true);
}

void Grid::report(Finding finding, const Instruction& instruction, const std::string& message) {
  uint16_t& made = findings_[static_cast<size_t>(&instruction - program_.code.data())];
  const auto bit = static_cast<uint16_t>(1u << static_cast<unsigned>(finding));
  if ((made & bit) != 0) return;
  made |= bit;
  const Source& source = program_.sources[instruction.source];
  std::string text = program_.brief_name + ": " + message + ", at ";
  if (source.location.line != 0)
    text += source.location.file + ":" + std::to_string(source.location.line) + ", ";
  add_report(text + "`" + source.text + "`");
}

void Grid::report(Finding finding, const Instruction& instruction, const std::string& message,
                  const Warp& warp, int lane) {
  report(finding, instruction,
         message + " (block " + std::to_string(warp.block().index()) + ", thread " +
             std::to_string(warp.thread(lane)) + ")");
}

bool Grid::valid_configuration() {
  const auto refuse = [&](const std::string& why) {
    add_report(program_.brief_name + ": invalid launch: " + why);
    return false;
  };
  for (size_t i = 0; i < 3; ++i) {
    if (grid_size_[i] == 0 || block_size_[i] == 0) return refuse("an empty grid or block");
  }
  if (grid_size_[0] > 0x7fffffff) return refuse("grid.x = " + std::to_string(grid_size_[0]));
  if (grid_size_[1] > 65535 || grid_size_[2] > 65535) return refuse("grid.y or grid.z > 65535");
  if (uint64_t{grid_size_[0]} * grid_size_[1] * grid_size_[2] > kMaxBlocks) {
    return refuse("more blocks than can be simulated");
  }
  const uint64_t block = uint64_t{block_size_[0]} * block_size_[1] * block_size_[2];
  if (block_size_[2] > 64 || block > 1024)
    return refuse("a block of " + std::to_string(block) + " threads");
  if (block > program_.max_threads) {
    return refuse("a block of " + std::to_string(block) + " threads; __launch_bounds__ says " +
                  std::to_string(program_.max_threads));
  }
  if (program_.static_shared > kMaxStaticShared) {
    return refuse(std::to_string(program_.static_shared) + " bytes of static shared memory");
  }
  if (program_.static_shared + dynamic_shared_ > kMaxShared) {
    return refuse(std::to_string(program_.static_shared + dynamic_shared_) +
                  " bytes of shared memory");
  }
  return true;
}

int Grid::run() {
  if (!valid_configuration()) return kErrorInvalidConfiguration;
  Scheduler(*this).run();
  return error_;
}

}  // namespace cudasim
