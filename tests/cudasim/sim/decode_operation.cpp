// Arithmetic, moves and barriers.

#include <algorithm>
#include <map>

#include "decoder.h"
#include "text.h"

namespace cudasim {
namespace {

// Which operands of an opcode are predicates.
struct PredicatePositions {
  bool out = false, out2 = false;
  int in = -1;
  bool all = false;
};

PredicatePositions predicate_positions(const std::string& opcode) {
  if (starts_with(opcode, "vote."))
    return {.out = ends_with(opcode, ".pred"), .out2 = false, .in = 0};
  if (ends_with(opcode, ".pred")) return {.out = true, .out2 = false, .in = -1, .all = true};
  if (starts_with(opcode, "setp.")) return {.out = true, .out2 = true, .in = 2};
  if (starts_with(opcode, "set.") || starts_with(opcode, "selp."))
    return {.out = false, .out2 = false, .in = 2};
  if (starts_with(opcode, "testp.") || starts_with(opcode, "isspacep.")) return {.out = true};
  return {.out = false, .out2 = true};
}

void copy(const Instruction& instruction, Warp& warp, uint32_t active) {
  const uint64_t* a = warp.row(instruction.in[0]);
  write_lanes(warp.row(instruction.out), active, [=](int lane) { return a[lane]; });
}

void read_clock(const Instruction& instruction, Warp& warp, uint32_t active) {
  const uint64_t now = warp.grid().warp_instructions;
  for_each_lane(active, [&](int lane) { warp.row(instruction.out)[lane] = now; });
}

void pack(const Instruction& instruction, Warp& warp, uint32_t active) {
  const unsigned bits = instruction.variant;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  for_each_lane(active, [&](int lane) {
    uint64_t word = 0;
    for (size_t i = 0; i < instruction.parts.size(); ++i) {
      word |= (warp.row(instruction.parts[i])[lane] & mask) << (bits * i);
    }
    warp.row(instruction.out)[lane] = word;
  });
}

void unpack(const Instruction& instruction, Warp& warp, uint32_t active) {
  const unsigned bits = instruction.variant;
  for_each_lane(active, [&](int lane) {
    const uint64_t word = warp.row(instruction.in[0])[lane];
    for (size_t i = 0; i < instruction.parts.size(); ++i)
      warp.row(instruction.parts[i])[lane] = word >> (bits * i);
  });
}

}  // namespace

void Decoder::decode_operation(Frame& frame, const ptx::Statement& statement) {
  const Operation* operation = operations().find(statement.opcode);
  if (operation == nullptr) refuse(statement, "unknown instruction");
  Instruction& instruction = append(frame, statement, operation->handler);
  instruction.inputs = operation->inputs;
  instruction.variant = operation->variant;
  const PredicatePositions predicates = predicate_positions(statement.opcode);
  const bool has_output = statement.opcode != "bar.warp.sync";
  const size_t expected = operation->inputs + (has_output ? 1u : 0u);
  if (statement.operands.size() != expected) refuse(statement, "wrong number of operands");
  size_t next = 0;
  if (has_output) {
    const std::string& out = statement.operands[next++];
    const size_t bar = out.find('|');
    instruction.out = destination(frame, statement.scope, trim(out.substr(0, bar)), predicates.out);
    instruction.out2 = {kSinkPredicate, Bank::kPredicate, false, 1};
    if (bar != std::string::npos) {
      if (!predicates.out2) refuse(statement, "a second result");
      instruction.out2 = destination(frame, statement.scope, trim(out.substr(bar + 1)), true);
    }
  }
  for (size_t i = 0; i < operation->inputs; ++i) {
    const bool predicate = predicates.all || predicates.in == static_cast<int>(i);
    instruction.in[i] = operand(frame, statement.scope, statement.operands[next + i], predicate);
  }
  static const char* const collectives[] = {"shfl.",  "vote.",  "match.",
                                            "redux.", "elect.", "bar.warp."};
  for (const char* prefix : collectives) {
    if (starts_with(statement.opcode, prefix)) instruction.flow = Flow::kCollective;
  }
}

// mov.type d, a; mov.type {d, e}, a; mov.type d, {a, b}
void Decoder::decode_move(Frame& frame, const ptx::Statement& statement) {
  static const std::map<std::string, unsigned> widths = {
      {"b16", 16}, {"u16", 16}, {"s16", 16}, {"b32", 32}, {"u32", 32}, {"s32", 32},
      {"f32", 32}, {"b64", 64}, {"u64", 64}, {"s64", 64}, {"f64", 64}};
  if (statement.operands.size() != 2) refuse(statement, "wrong number of operands");
  const auto width =
      widths.find(statement.opcode.substr(std::min<size_t>(4, statement.opcode.size())));
  if (width == widths.end()) refuse(statement, "unknown instruction");
  const std::string& to = statement.operands[0];
  const std::string& from = statement.operands[1];
  Instruction& instruction = append(frame, statement, copy);
  if (to[0] == '{') {
    instruction.execute = unpack;
    instruction.parts = operands(frame, statement.scope, to, true);
    instruction.in[0] = operand(frame, statement.scope, from);
  } else if (from[0] == '{') {
    instruction.execute = pack;
    instruction.parts = operands(frame, statement.scope, from);
    instruction.out = destination(frame, statement.scope, to);
  } else {
    instruction.out = destination(frame, statement.scope, to);
    instruction.in[0] = operand(frame, statement.scope, from);
    const Operand clock{static_cast<uint32_t>(Special::kClock), Bank::kSpecial, false, 64};
    if (instruction.in[0].bank == clock.bank && instruction.in[0].row == clock.row)
      instruction.execute = read_clock;
  }
  if (!instruction.parts.empty()) {
    instruction.variant = static_cast<uint8_t>(width->second / instruction.parts.size());
  }
}

void Decoder::decode_barrier(Frame& frame, const ptx::Statement& statement) {
  std::vector<std::string> parts = split(statement.opcode, '.');
  std::erase_if(parts, [](const std::string& part) { return part == "aligned" || part == "cta"; });
  if (parts.size() < 2) refuse(statement, "unknown instruction");
  Instruction& instruction = append(frame, statement, nothing);
  instruction.flow = Flow::kBarrier;
  Barrier& barrier = *program_->barriers.emplace_back(std::make_unique<Barrier>());
  instruction.barrier = &barrier;
  std::vector<std::string> rest = statement.operands;
  const std::string& kind = parts[1];
  if (kind == "red" && parts.size() == 4) {
    static const std::map<std::string, Barrier::Reduction> reductions = {
        {"and", Barrier::Reduction::kAnd},
        {"or", Barrier::Reduction::kOr},
        {"popc", Barrier::Reduction::kPopc}};
    const auto reduction = reductions.find(parts[2]);
    if (reduction == reductions.end() || rest.size() < 3) refuse(statement, "unknown instruction");
    barrier.reduction = reduction->second;
    instruction.out = destination(frame, statement.scope, rest[0], parts[3] == "pred");
    barrier.predicate = operand(frame, statement.scope, rest.back(), true);
    rest.pop_back();
    rest.erase(rest.begin());
  } else if ((kind != "sync" && kind != "arrive") || parts.size() != 2) {
    refuse(statement, "unknown instruction");
  }
  barrier.arrive_only = kind == "arrive";
  if (rest.empty() || rest.size() > 2) refuse(statement, "wrong number of operands");
  barrier.id = operand(frame, statement.scope, rest[0]);
  barrier.has_count = rest.size() == 2;
  if (barrier.has_count) barrier.count = operand(frame, statement.scope, rest[1]);
}

}  // namespace cudasim
