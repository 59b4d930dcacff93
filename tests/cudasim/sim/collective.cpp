// What the lanes of a warp do together: shfl, vote, match, redux, elect, bar.warp.sync. The
// scheduler calls a handler once for all lanes that take part; the last operand is the member mask.
#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "operations.h"

namespace cudasim {
namespace {

// A lane may name others that have left, but it has to name itself.
void check_membership(const Instruction& instruction, Warp& warp, uint32_t active) {
  const uint64_t* members = warp.row(instruction.in[instruction.inputs - 1u]);
  for_each_lane(active, [&](int lane) {
    if ((members[lane] >> lane & 1) != 0) return;
    warp.grid().report(Finding::kMembership, instruction,
                       "a lane executes this but is not in its own member mask", warp, lane);
  });
}

enum class Shuffle { kUp, kDown, kButterfly, kIndex };

template <Shuffle kMode>
void shuffle(const Instruction& instruction, Warp& warp, uint32_t active) {
  check_membership(instruction, warp, active);
  std::array<uint64_t, kLanes> values;
  std::copy_n(warp.row(instruction.in[0]), kLanes, values.begin());
  const uint64_t* amounts = warp.row(instruction.in[1]);
  const uint64_t* bounds = warp.row(instruction.in[2]);
  uint64_t* out = warp.row(instruction.out);
  uint32_t in_range = 0;
  for_each_lane(active, [&](int lane) {
    const int amount = static_cast<int>(amounts[lane] & 31);
    const int clamp = static_cast<int>(bounds[lane] & 31);
    const int segment = static_cast<int>(bounds[lane] >> 8 & 31);
    const int last = (lane & segment) | (clamp & ~segment);
    int from = lane;
    bool valid = true;
    if constexpr (kMode == Shuffle::kUp) {
      from = lane - amount;
      valid = from >= last;
    } else {
      if constexpr (kMode == Shuffle::kDown) from = lane + amount;
      if constexpr (kMode == Shuffle::kButterfly) from = lane ^ amount;
      if constexpr (kMode == Shuffle::kIndex) from = (lane & segment) | (amount & ~segment);
      valid = from <= last;
    }
    if (!valid) from = lane;
    if ((active >> from & 1) == 0) {
      warp.grid().report(Finding::kShuffle, instruction,
                         "shuffle reads lane " + std::to_string(from) +
                             ", which takes no part (it has left, or is elsewhere)",
                         warp, lane);
    }
    out[lane] = values[static_cast<size_t>(from)];
    in_range |= uint32_t{valid} << lane;
  });
  warp.set_predicate(instruction.out2, active, in_range);
}

enum class Vote { kAll, kAny, kUniform, kBallot };

template <Vote kMode>
void vote(const Instruction& instruction, Warp& warp, uint32_t active) {
  check_membership(instruction, warp, active);
  const uint32_t predicate = warp.predicate(instruction.in[0]) & active;
  const uint64_t* members = warp.row(instruction.in[1]);
  uint64_t* ballot = kMode == Vote::kBallot ? warp.row(instruction.out) : nullptr;
  uint32_t result = 0;
  for_each_lane(active, [&](int lane) {
    const uint32_t voters = active & static_cast<uint32_t>(members[lane]);
    const uint32_t votes = predicate & voters;
    bool yes = false;
    if constexpr (kMode == Vote::kBallot) ballot[lane] = votes;
    if constexpr (kMode == Vote::kAll) yes = votes == voters;
    if constexpr (kMode == Vote::kAny) yes = votes != 0;
    if constexpr (kMode == Vote::kUniform) yes = votes == 0 || votes == voters;
    result |= uint32_t{yes} << lane;
  });
  if (kMode != Vote::kBallot) warp.set_predicate(instruction.out, active, result);
}

template <class T, bool kAll>
void match(const Instruction& instruction, Warp& warp, uint32_t active) {
  check_membership(instruction, warp, active);
  std::array<T, kLanes> values;
  const uint64_t* row = warp.row(instruction.in[0]);
  for (size_t lane = 0; lane < kLanes; ++lane) values[lane] = static_cast<T>(row[lane]);
  const uint64_t* members = warp.row(instruction.in[1]);
  uint64_t* out = warp.row(instruction.out);
  uint32_t all_equal = 0;
  for_each_lane(active, [&](int lane) {
    const uint32_t voters = active & static_cast<uint32_t>(members[lane]);
    uint32_t equal = 0;
    for_each_lane(voters, [&](int other) {
      equal |= uint32_t{values[static_cast<size_t>(other)] == values[static_cast<size_t>(lane)]}
               << other;
    });
    out[lane] = !kAll || equal == voters ? equal : 0;
    all_equal |= uint32_t{equal == voters} << lane;
  });
  if (kAll) warp.set_predicate(instruction.out2, active, all_equal);
}

template <class T, class Op>
void reduce(const Instruction& instruction, Warp& warp, uint32_t active) {
  check_membership(instruction, warp, active);
  const uint64_t* row = warp.row(instruction.in[0]);
  const uint64_t* members = warp.row(instruction.in[1]);
  std::array<uint64_t, kLanes> results{};
  for_each_lane(active, [&](int lane) {
    uint32_t others = active & static_cast<uint32_t>(members[lane]);
    if (others == 0) return;
    T result = static_cast<T>(row[std::countr_zero(others)]);
    for_each_lane(others & (others - 1),
                  [&](int other) { result = Op()(result, static_cast<T>(row[other])); });
    results[static_cast<size_t>(lane)] = to_word(result);
  });
  uint64_t* out = warp.row(instruction.out);
  for_each_lane(active, [&](int lane) { out[lane] = results[static_cast<size_t>(lane)]; });
}

template <class T, class Op>
void add_reduction(OperationTable& table, const std::string& suffix, Op) {
  table.add("redux.sync." + suffix, {reduce<T, Op>, 2});
}

void elect(const Instruction& instruction, Warp& warp, uint32_t active) {
  const int leader = std::countr_zero(active);
  for_each_lane(active,
                [&](int lane) { warp.row(instruction.out)[lane] = static_cast<uint64_t>(leader); });
  warp.set_predicate(instruction.out2, active, 1u << leader);
}

void synchronise(const Instruction& instruction, Warp& warp, uint32_t active) {
  check_membership(instruction, warp, active);
  warp.synchronise(active);
}

void active_mask(const Instruction& instruction, Warp& warp, uint32_t active) {
  for_each_lane(active, [&](int lane) { warp.row(instruction.out)[lane] = active; });
}

}  // namespace

void add_warp_operations(OperationTable& table) {
  table.add("shfl.sync.up.b32", {shuffle<Shuffle::kUp>, 4});
  table.add("shfl.sync.down.b32", {shuffle<Shuffle::kDown>, 4});
  table.add("shfl.sync.bfly.b32", {shuffle<Shuffle::kButterfly>, 4});
  table.add("shfl.sync.idx.b32", {shuffle<Shuffle::kIndex>, 4});
  const auto add_vote = [&](const std::string& mode, const std::string& type, Handler handler) {
    table.add("vote.sync." + mode + "." + type, {handler, 2});
    table.add("vote." + mode + ".sync." + type, {handler, 2});
  };
  add_vote("all", "pred", vote<Vote::kAll>);
  add_vote("any", "pred", vote<Vote::kAny>);
  add_vote("uni", "pred", vote<Vote::kUniform>);
  add_vote("ballot", "b32", vote<Vote::kBallot>);
  table.add("match.any.sync.b32", {match<uint32_t, false>, 2});
  table.add("match.any.sync.b64", {match<uint64_t, false>, 2});
  table.add("match.all.sync.b32", {match<uint32_t, true>, 2});
  table.add("match.all.sync.b64", {match<uint64_t, true>, 2});
  add_reduction<uint32_t>(table, "add.u32", [](uint32_t a, uint32_t b) { return a + b; });
  add_reduction<uint32_t>(table, "add.s32", [](uint32_t a, uint32_t b) { return a + b; });
  add_reduction<uint32_t>(table, "min.u32", [](uint32_t a, uint32_t b) { return std::min(a, b); });
  add_reduction<uint32_t>(table, "max.u32", [](uint32_t a, uint32_t b) { return std::max(a, b); });
  add_reduction<int32_t>(table, "min.s32", [](int32_t a, int32_t b) { return std::min(a, b); });
  add_reduction<int32_t>(table, "max.s32", [](int32_t a, int32_t b) { return std::max(a, b); });
  add_reduction<uint32_t>(table, "and.b32", [](uint32_t a, uint32_t b) { return a & b; });
  add_reduction<uint32_t>(table, "or.b32", [](uint32_t a, uint32_t b) { return a | b; });
  add_reduction<uint32_t>(table, "xor.b32", [](uint32_t a, uint32_t b) { return a ^ b; });
  table.add("elect.sync", {elect, 1});
  table.add("bar.warp.sync", {synchronise, 1, kMeetsAnywhere});
  table.add("activemask.b32", {active_mask, 0});
}

}  // namespace cudasim
