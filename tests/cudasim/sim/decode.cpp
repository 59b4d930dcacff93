#include "decode.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include "access.h"
#include "builtins.h"
#include "memory.h"
#include "operations.h"
#include "report.h"

namespace cudasim {
namespace {

constexpr size_t kRedZone = 128;                         // between shared arrays
constexpr size_t kDynamicSharedBegin = size_t{1} << 16;  // beyond any static shared memory

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(' ');
  return begin == std::string::npos ? ""
                                    : text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

bool starts_with(const std::string& text, const char* prefix) {
  return text.compare(0, std::strlen(prefix), prefix) == 0;
}
bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

size_t align_up(size_t value, size_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// "42", "-7", "0x1F", "0f3F800000", "0d3FF0000000000000", "10U"
std::optional<uint64_t> parse_immediate(const std::string& text) {
  if (text == "WARP_SZ") return kLanes;
  if (text.size() > 2 && text[0] == '0' && std::strchr("fFdD", text[1]) != nullptr) {
    return std::strtoull(text.c_str() + 2, nullptr, 16);
  }
  if (!std::isdigit(static_cast<unsigned char>(text[0])) && text[0] != '-') return std::nullopt;
  char* end = nullptr;
  const uint64_t value = text[0] == '-' ? static_cast<uint64_t>(std::strtoll(text.c_str(), &end, 0))
                                        : std::strtoull(text.c_str(), &end, 0);
  if (*end == 'U') ++end;
  if (*end != 0) return std::nullopt;
  return value;
}

std::optional<Special> parse_special(const std::string& name) {
  static const std::unordered_map<std::string, Special> names = {
      {"%tid.x", Special::kTidX},
      {"%tid.y", Special::kTidY},
      {"%tid.z", Special::kTidZ},
      {"%ntid.x", Special::kNtidX},
      {"%ntid.y", Special::kNtidY},
      {"%ntid.z", Special::kNtidZ},
      {"%ctaid.x", Special::kCtaidX},
      {"%ctaid.y", Special::kCtaidY},
      {"%ctaid.z", Special::kCtaidZ},
      {"%nctaid.x", Special::kNctaidX},
      {"%nctaid.y", Special::kNctaidY},
      {"%nctaid.z", Special::kNctaidZ},
      {"%laneid", Special::kLaneId},
      {"%warpid", Special::kWarpId},
      {"%nwarpid", Special::kWarps},
      {"%lanemask_eq", Special::kLanemaskEq},
      {"%lanemask_lt", Special::kLanemaskLt},
      {"%lanemask_le", Special::kLanemaskLe},
      {"%lanemask_gt", Special::kLanemaskGt},
      {"%lanemask_ge", Special::kLanemaskGe},
      {"%dynamic_smem_size", Special::kDynamicShared},
      {"%total_smem_size", Special::kTotalShared},
      {"%clock", Special::kClock},
      {"%clock64", Special::kClock},
      {"%globaltimer", Special::kClock},
      {"%smid", Special::kZero},
      {"%gridid", Special::kZero}};
  const auto found = names.find(name);
  if (found == names.end()) return std::nullopt;
  return found->second;
}

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

const std::set<std::string>& ignored_opcodes() {
  static const std::set<std::string> names = {"prefetch",     "prefetchu",    "griddepcontrol",
                                              "createpolicy", "brkpt",        "pmevent",
                                              "discard",      "applypriority"};
  return names;
}

struct Symbol {
  Space space = Space::kGeneric;
  uint64_t address = 0;
};

// A function as it is inlined at one call: its own registers and variables.
struct Frame {
  const ptx::Function& function;
  std::map<std::string, Symbol> parameters;
  std::vector<std::unordered_map<std::string, Operand>> registers;  // by scope
  std::vector<std::unordered_map<std::string, Symbol>> variables;   // by scope
  std::vector<int> code_at;                                         // by statement

  struct Branch {
    size_t instruction;
    std::vector<std::string> labels;
    bool indexed;
    int scope;
  };
  std::vector<Branch> branches;
  std::vector<size_t> returns;

  explicit Frame(const ptx::Function& f)
      : function(f),
        registers(f.scopes.size()),
        variables(f.scopes.size()),
        code_at(f.body.size() + 1) {}
};

class Decoder {
 public:
  explicit Decoder(const LoadedModule& module)
      : module_(module), program_(std::make_unique<Program>()) {}

  std::unique_ptr<Program> decode(const ptx::Function& kernel);

 private:
  void decode_function(Frame& frame);
  void decode_statement(Frame& frame, const ptx::Statement& statement);
  void resolve_branches(Frame& frame);

  // Opcodes that are more than arithmetic. Each appends to the program.
  void decode_operation(Frame& frame, const ptx::Statement& statement);
  void decode_move(Frame& frame, const ptx::Statement& statement);
  void decode_load_or_store(Frame& frame, const ptx::Statement& statement);
  void decode_atomic(Frame& frame, const ptx::Statement& statement);
  void decode_barrier(Frame& frame, const ptx::Statement& statement);
  void decode_branch(Frame& frame, const ptx::Statement& statement);
  void decode_return(Frame& frame, const ptx::Statement& statement);
  void decode_call(Frame& frame, const ptx::Statement& statement);
  void decode_builtin(Frame& frame, const ptx::Statement& statement, const std::string& name,
                      const std::vector<Symbol>& arguments);

  Instruction& append(Frame& frame, const ptx::Statement& statement, Handler handler);
  MemoryAccess& add_access(Instruction& instruction);
  void set_address(Frame& frame, const ptx::Statement& statement, const std::string& text,
                   MemoryAccess& access);
  std::string apply_modifiers(const ptx::Statement& statement, MemoryAccess& access,
                              bool& cache_hint);

  Operand operand(Frame& frame, int scope, const std::string& text, bool predicate = false);
  Operand destination(Frame& frame, int scope, const std::string& text, bool predicate = false);
  std::vector<Operand> operands(Frame& frame, int scope, const std::string& list,
                                bool destinations = false);
  std::optional<Operand> find_register(Frame& frame, int scope, const std::string& name);
  std::optional<Symbol> find_symbol(Frame& frame, int scope, const std::string& name);
  Symbol symbol(Frame& frame, int scope, const std::string& name);
  Symbol place_variable(const Frame& frame, const ptx::Variable& variable);
  Symbol shared_symbol(const std::string& key, const ptx::Variable& variable);
  Symbol place_shared(const ptx::Variable& variable);
  Operand constant(uint64_t value);

  const LoadedModule& module_;
  std::unique_ptr<Program> program_;
  std::unordered_map<uint64_t, uint32_t> constant_rows_;
  std::unordered_map<std::string, Symbol> shared_symbols_;
  std::vector<std::string> call_stack_;
  size_t shared_end_ = 0;
};

[[noreturn]] void refuse(const ptx::Statement& statement, const std::string& why) {
  throw ptx::Error(why + ": `" + statement.text + "`" +
                   (statement.location.line != 0 ? " at " + statement.location.file + ":" +
                                                       std::to_string(statement.location.line)
                                                 : ""));
}

// ---- Names.

Operand Decoder::constant(uint64_t value) {
  const auto [found, fresh] =
      constant_rows_.try_emplace(value, static_cast<uint32_t>(constant_rows_.size()));
  if (fresh) program_->constants.insert(program_->constants.end(), kLanes, value);
  return {found->second, Bank::kConstant, false, 64};
}

std::optional<Operand> Decoder::find_register(Frame& frame, int scope, const std::string& name) {
  for (; scope >= 0; scope = frame.function.scopes[static_cast<size_t>(scope)].parent) {
    const auto declared = frame.function.scopes[static_cast<size_t>(scope)].registers.find(name);
    if (declared == frame.function.scopes[static_cast<size_t>(scope)].registers.end()) continue;
    auto& rows = frame.registers[static_cast<size_t>(scope)];
    const auto known = rows.find(name);
    if (known != rows.end()) return known->second;
    Operand fresh;
    fresh.bits = static_cast<uint8_t>(declared->second);
    fresh.bank = fresh.bits == 1 ? Bank::kPredicate : Bank::kRegister;
    fresh.row = fresh.bits == 1 ? program_->predicates++ : program_->registers++;
    return rows[name] = fresh;
  }
  return std::nullopt;
}

Symbol Decoder::place_shared(const ptx::Variable& variable) {
  if (variable.external) {
    program_->uses_dynamic_shared = true;
    return {Space::kShared, kDynamicSharedBegin};
  }
  program_->static_shared = align_up(program_->static_shared, variable.alignment) + variable.bytes;
  const size_t begin = align_up(shared_end_ == 0 ? 0 : shared_end_ + kRedZone, variable.alignment);
  shared_end_ = begin + variable.bytes;
  if (shared_end_ + kRedZone > kDynamicSharedBegin)
    throw ptx::Error("too much static shared memory");
  program_->shared_arrays.push_back({variable.name, begin, shared_end_});
  return {Space::kShared, begin};
}

// A shared variable is one for all calls of its function.
Symbol Decoder::shared_symbol(const std::string& key, const ptx::Variable& variable) {
  const auto known = shared_symbols_.find(key);
  if (known != shared_symbols_.end()) return known->second;
  return shared_symbols_[key] = place_shared(variable);
}

Symbol Decoder::place_variable(const Frame& frame, const ptx::Variable& variable) {
  if (variable.space == "shared")
    return shared_symbol(frame.function.name + ' ' + variable.name, variable);
  if (variable.space != "local" && variable.space != "param") {
    throw ptx::Error("a ." + variable.space + " variable in a function: " + variable.name);
  }
  const size_t begin = align_up(program_->local_bytes, std::max<size_t>(variable.alignment, 16));
  program_->local_bytes = begin + variable.bytes;
  return {Space::kLocal, begin};
}

std::optional<Symbol> Decoder::find_symbol(Frame& frame, int scope, const std::string& name) {
  for (; scope >= 0; scope = frame.function.scopes[static_cast<size_t>(scope)].parent) {
    auto& placed = frame.variables[static_cast<size_t>(scope)];
    if (const auto known = placed.find(name); known != placed.end()) return known->second;
    for (const ptx::Variable& variable :
         frame.function.scopes[static_cast<size_t>(scope)].variables) {
      if (variable.name == name) return placed[name] = place_variable(frame, variable);
    }
  }
  if (const auto parameter = frame.parameters.find(name); parameter != frame.parameters.end())
    return parameter->second;
  const ptx::Variable* variable = module_.variable(name);
  if (variable == nullptr) return std::nullopt;
  if (variable->space == "shared") return shared_symbol(name, *variable);
  return Symbol{variable->space == "const" ? Space::kConst : Space::kGlobal, module_.address(name)};
}

Symbol Decoder::symbol(Frame& frame, int scope, const std::string& name) {
  const std::optional<Symbol> found = find_symbol(frame, scope, name);
  if (!found) throw ptx::Error("unknown name `" + name + "`");
  return *found;
}

Operand Decoder::operand(Frame& frame, int scope, const std::string& text, bool predicate) {
  if (text.empty()) throw ptx::Error("an operand is missing");
  if (text == "_") {
    return predicate ? Operand{kSinkPredicate, Bank::kPredicate, false, 1}
                     : Operand{kSinkRegister, Bank::kRegister, false, 64};
  }
  if (text[0] == '!') {
    Operand negated = operand(frame, scope, trim(text.substr(1)), true);
    negated.negated = !negated.negated;
    return negated;
  }
  Operand result;
  if (const auto special = parse_special(text)) {
    result = {static_cast<uint32_t>(*special), Bank::kSpecial, false, 64};
  } else if (const auto found = find_register(frame, scope, text)) {
    result = *found;
  } else if (const auto immediate = parse_immediate(text)) {
    result = constant(*immediate);
    if (predicate)
      result = {*immediate != 0 ? kTruePredicate : kFalsePredicate, Bank::kPredicate, false, 1};
  } else {
    const size_t plus = text.find('+');
    const auto offset =
        plus == std::string::npos ? 0 : parse_immediate(trim(text.substr(plus + 1)));
    if (!offset) throw ptx::Error("cannot read the operand `" + text + "`");
    result = constant(symbol(frame, scope, trim(text.substr(0, plus))).address + *offset);
  }
  if ((result.bank == Bank::kPredicate) != predicate) {
    throw ptx::Error(predicate ? "`" + text + "` is not a predicate"
                               : "`" + text + "` is a predicate");
  }
  return result;
}

Operand Decoder::destination(Frame& frame, int scope, const std::string& text, bool predicate) {
  const Operand result = operand(frame, scope, text, predicate);
  const bool constant = result.bank == Bank::kPredicate ? result.row <= kTruePredicate
                                                        : result.bank != Bank::kRegister;
  if (constant || result.negated) throw ptx::Error("`" + text + "` cannot be written");
  return result;
}

// "{%r1, _, %r3}" or a single operand.
std::vector<Operand> Decoder::operands(Frame& frame, int scope, const std::string& list,
                                       bool destinations) {
  const auto read = [&](const std::string& text) {
    return destinations ? destination(frame, scope, text) : operand(frame, scope, text);
  };
  if (list.empty() || list[0] != '{') return {read(list)};
  std::vector<Operand> result;
  for (const std::string& item : split(list.substr(1, list.find('}') - 1), ',')) {
    result.push_back(read(trim(item)));
  }
  return result;
}

// ---- Statements.

Instruction& Decoder::append(Frame& frame, const ptx::Statement& statement, Handler handler) {
  Instruction& instruction = program_->code.emplace_back();
  instruction.execute = handler;
  instruction.source = static_cast<uint32_t>(program_->sources.size());
  program_->sources.push_back({statement.text, statement.location});
  if (!statement.guard.empty()) {
    const Operand guard = operand(frame, statement.scope, statement.guard, true);
    instruction.guard = guard.row;
    instruction.guard_negated = guard.negated;
  }
  return instruction;
}

void nothing(const Instruction&, Warp&, uint32_t) {}

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

// ---- Memory.

MemoryAccess& Decoder::add_access(Instruction& instruction) {
  MemoryAccess& access = *program_->accesses.emplace_back(std::make_unique<MemoryAccess>());
  instruction.memory = &access;
  return access;
}

// Everything between the opcode and the type; returns what only the caller can know, joined by
// dots.
std::string Decoder::apply_modifiers(const ptx::Statement& statement, MemoryAccess& access,
                                     bool& cache_hint) {
  static const std::map<std::string, Space> spaces = {
      {"global", Space::kGlobal},      {"shared", Space::kShared},
      {"shared::cta", Space::kShared}, {"local", Space::kLocal},
      {"param", Space::kParam},        {"const", Space::kConst},
      {"param::entry", Space::kParam}, {"param::func", Space::kParam}};
  static const std::set<std::string> harmless = {
      "weak", "cta", "cluster", "gpu", "sys", "gl", "ca", "cg", "cs", "lu", "wb", "wt", "unified"};
  static const std::set<std::string> synchronising = {"volatile", "relaxed", "acquire",
                                                      "release",  "acq_rel", "cv"};
  std::string rest;
  const std::vector<std::string> parts = split(statement.opcode, '.');
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string& part = parts[i];
    if (const auto space = spaces.find(part); space != spaces.end()) {
      access.space = space->second;
    } else if (synchronising.contains(part)) {
      access.synchronising = true;
      access.acquire |= part == "acquire" || part == "acq_rel";
      access.release |= part == "release" || part == "acq_rel";
    } else if (part == "nc") {
      access.non_coherent = true;
    } else if (part == "L2::cache_hint") {
      cache_hint = true;
    } else if (part == "v2" || part == "v4" || part == "v8") {
      access.elements = static_cast<uint8_t>(part[1] - '0');
    } else if (!harmless.contains(part) && !starts_with(part, "L1::") &&
               !starts_with(part, "L2::")) {
      rest += (rest.empty() ? "" : ".") + part;
    }
  }
  return rest;
}

// "[%rd1+16]", "[symbol+4]", "[%r1]", "[0x10]"
void Decoder::set_address(Frame& frame, const ptx::Statement& statement, const std::string& text,
                          MemoryAccess& access) {
  if (text.size() < 3 || text[0] != '[') refuse(statement, "an address is expected");
  const std::string inside = trim(text.substr(1, text.find(']') - 1));
  const size_t plus = inside.find('+');
  const std::string base = trim(inside.substr(0, plus));
  if (plus != std::string::npos) {
    const auto offset = parse_immediate(trim(inside.substr(plus + 1)));
    if (!offset) refuse(statement, "an offset is expected");
    access.offset = static_cast<int64_t>(*offset);
  }
  if (const auto found = find_register(frame, statement.scope, base)) {
    access.address = *found;
  } else if (const auto immediate = parse_immediate(base)) {
    access.address = constant(*immediate);
  } else {
    const Symbol named = symbol(frame, statement.scope, base);
    access.address = constant(named.address);
    // A parameter of a call lives in local memory.
    if (access.space == Space::kParam || access.space == Space::kGeneric)
      access.space = named.space;
  }
}

int bits_of(const std::string& type) {
  const size_t digits = type.find_first_of("0123456789");
  return digits == std::string::npos
             ? 0
             : static_cast<int>(std::strtol(type.c_str() + digits, nullptr, 10));
}

void Decoder::decode_load_or_store(Frame& frame, const ptx::Statement& statement) {
  const bool write = starts_with(statement.opcode, "st");
  Instruction& instruction = append(frame, statement, nullptr);
  MemoryAccess& access = add_access(instruction);
  access.write = write;
  access.used_bytes = statement.used_bytes;
  bool cache_hint = false;
  const std::string type = apply_modifiers(statement, access, cache_hint);
  if (starts_with(statement.opcode, "ldu")) access.non_coherent = true;
  instruction.execute = write ? store_handler(type) : load_handler(type);
  if (instruction.execute == nullptr) refuse(statement, "unknown instruction");
  if (statement.operands.size() != (cache_hint ? 3u : 2u))
    refuse(statement, "wrong number of operands");
  access.element_bytes = static_cast<uint8_t>(bits_of(type) / 8);
  set_address(frame, statement, statement.operands[write ? 0 : 1], access);
  const std::vector<Operand> values =
      operands(frame, statement.scope, statement.operands[write ? 1 : 0], !write);
  if (values.size() != access.elements) refuse(statement, "wrong number of elements");
  std::copy(values.begin(), values.end(), access.values.begin());
}

// atom.op.type d, [a], b{, c}; red.op.type [a], b
void Decoder::decode_atomic(Frame& frame, const ptx::Statement& statement) {
  const bool returns = starts_with(statement.opcode, "atom");
  Instruction& instruction = append(frame, statement, nullptr);
  MemoryAccess& access = add_access(instruction);
  access.write = access.atomic = true;
  bool cache_hint = false;
  const std::string rest = apply_modifiers(statement, access, cache_hint);
  access.synchronising = true;
  const size_t dot = rest.rfind('.');
  if (dot == std::string::npos) refuse(statement, "unknown instruction");
  const std::string type = rest.substr(dot + 1), operation = rest.substr(0, dot);
  instruction.execute = atomic_handler(operation, type);
  if (instruction.execute == nullptr) refuse(statement, "unknown instruction");
  access.element_bytes = static_cast<uint8_t>(ends_with(type, "x2") ? 4 : bits_of(type) / 8);
  const bool compares = operation == "cas";
  const size_t first = returns ? 1 : 0;
  if (statement.operands.size() != first + 2 + (compares ? 1 : 0) + (cache_hint ? 1 : 0)) {
    refuse(statement, "wrong number of operands");
  }
  set_address(frame, statement, statement.operands[first], access);
  const std::vector<Operand> values =
      operands(frame, statement.scope, statement.operands[first + 1]);
  if (values.size() != access.elements) refuse(statement, "wrong number of elements");
  std::copy(values.begin(), values.end(), access.values.begin());
  if (compares) instruction.in[0] = operand(frame, statement.scope, statement.operands[first + 2]);
  if (!returns) return;
  instruction.parts = operands(frame, statement.scope, statement.operands[0], true);
  if (instruction.parts.size() != values.size()) {  // `_`: nobody wants the old values
    instruction.parts.assign(values.size(), Operand{});
  }
}

// ---- Barriers, branches, calls.

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

void Decoder::decode_branch(Frame& frame, const ptx::Statement& statement) {
  const bool indexed = starts_with(statement.opcode, "brx");
  if (statement.operands.size() != (indexed ? 2u : 1u))
    refuse(statement, "wrong number of operands");
  const size_t index = program_->code.size();
  Instruction& instruction = append(frame, statement, nothing);
  instruction.flow = indexed ? Flow::kIndexedBranch : Flow::kBranch;
  std::vector<std::string> labels{statement.operands[0]};
  if (indexed) {
    instruction.in[0] = operand(frame, statement.scope, statement.operands[0]);
    for (int scope = statement.scope; scope >= 0;
         scope = frame.function.scopes[static_cast<size_t>(scope)].parent) {
      const auto& lists = frame.function.scopes[static_cast<size_t>(scope)].branch_targets;
      const auto found = lists.find(statement.operands[1]);
      if (found != lists.end()) labels = found->second;
    }
  }
  frame.branches.push_back({index, labels, indexed, statement.scope});
}

void Decoder::decode_return(Frame& frame, const ptx::Statement& statement) {
  const size_t index = program_->code.size();
  Instruction& instruction = append(frame, statement, nothing);
  if (starts_with(statement.opcode, "exit") || call_stack_.size() == 1) {
    instruction.flow = Flow::kExit;
  } else {
    instruction.flow = Flow::kBranch;
    frame.returns.push_back(index);
  }
}

void Decoder::decode_builtin(Frame& frame, const ptx::Statement& statement, const std::string& name,
                             const std::vector<Symbol>& arguments) {
  Instruction& instruction = append(frame, statement, find_builtin(name));
  if (instruction.execute == nullptr) refuse(statement, "a call of an unknown function");
  for (const Symbol& argument : arguments) instruction.parts.push_back(constant(argument.address));
}

// call (result), function, (arguments): the body of the function is inlined, with registers of its
// own.
void Decoder::decode_call(Frame& frame, const ptx::Statement& statement) {
  std::vector<Symbol> results, arguments;
  std::string name;
  for (const std::string& item : statement.operands) {
    if (item[0] != '(') {
      if (name.empty()) name = item;
      continue;
    }
    for (const std::string& argument : split(item.substr(1, item.rfind(')') - 1), ',')) {
      if (trim(argument).empty()) continue;
      (name.empty() ? results : arguments)
          .push_back(symbol(frame, statement.scope, trim(argument)));
    }
  }
  if (!module_.ptx().has(name)) return decode_builtin(frame, statement, name, arguments);
  if (std::find(call_stack_.begin(), call_stack_.end(), name) != call_stack_.end()) {
    refuse(statement, "recursion is not supported");
  }
  size_t skip = SIZE_MAX;
  if (!statement.guard.empty()) {
    skip = program_->code.size();
    Instruction& around = append(frame, statement, nothing);
    around.guard_negated = !around.guard_negated;
    around.flow = Flow::kBranch;
  }
  const ptx::Function function = module_.ptx().parse(name);
  if (function.parameters.size() != arguments.size() || function.results.size() != results.size()) {
    refuse(statement, "wrong number of arguments");
  }
  Frame callee(function);
  for (size_t i = 0; i < arguments.size(); ++i)
    callee.parameters[function.parameters[i].name] = arguments[i];
  for (size_t i = 0; i < results.size(); ++i)
    callee.parameters[function.results[i].name] = results[i];
  call_stack_.push_back(name);
  decode_function(callee);
  call_stack_.pop_back();
  if (skip != SIZE_MAX) program_->code[skip].target = static_cast<int>(program_->code.size());
}

void Decoder::decode_statement(Frame& frame, const ptx::Statement& statement) {
  const std::string name = statement.opcode.substr(0, statement.opcode.find('.'));
  if (name == "ld" || name == "ldu" || name == "st") return decode_load_or_store(frame, statement);
  if (name == "atom" || name == "red") return decode_atomic(frame, statement);
  if (name == "bra" || name == "brx") return decode_branch(frame, statement);
  if (name == "ret" || name == "exit") return decode_return(frame, statement);
  if (name == "call") return decode_call(frame, statement);
  if (name == "mov" && statement.opcode != "mov.pred") return decode_move(frame, statement);
  if ((name == "bar" || name == "barrier") && statement.opcode != "bar.warp.sync")
    return decode_barrier(frame, statement);
  if (name == "membar" || name == "fence") {
    const bool among_blocks = !ends_with(statement.opcode, ".cta");
    append(frame, statement, among_blocks ? find_builtin("fence") : nothing);
  } else if (name == "trap" || name == "nanosleep") {
    append(frame, statement, find_builtin(name));
  } else if (ignored_opcodes().contains(name)) {
    append(frame, statement, nothing);
  } else {
    decode_operation(frame, statement);
  }
}

void Decoder::resolve_branches(Frame& frame) {
  const auto find_label = [&](int scope, const std::string& label) {
    for (; scope >= 0; scope = frame.function.scopes[static_cast<size_t>(scope)].parent) {
      const auto& labels = frame.function.scopes[static_cast<size_t>(scope)].labels;
      if (const auto found = labels.find(label); found != labels.end())
        return frame.code_at[found->second];
    }
    throw ptx::Error(frame.function.name + ": no label " + label);
  };
  for (const Frame::Branch& branch : frame.branches) {
    Instruction& instruction = program_->code[branch.instruction];
    if (branch.indexed) {
      for (const std::string& label : branch.labels)
        instruction.targets.push_back(find_label(branch.scope, label));
    } else {
      instruction.target = find_label(branch.scope, branch.labels[0]);
    }
  }
  for (const size_t index : frame.returns)
    program_->code[index].target = static_cast<int>(program_->code.size());
}

void Decoder::decode_function(Frame& frame) {
  for (size_t i = 0; i < frame.function.body.size(); ++i) {
    const ptx::Statement& statement = frame.function.body[i];
    frame.code_at[i] = static_cast<int>(program_->code.size());
    try {
      decode_statement(frame, statement);
    } catch (const ptx::Error& error) {
      if (std::string(error.what()).find(statement.text) != std::string::npos) throw;
      refuse(statement, error.what());
    }
  }
  frame.code_at[frame.function.body.size()] = static_cast<int>(program_->code.size());
  resolve_branches(frame);
}

std::unique_ptr<Program> Decoder::decode(const ptx::Function& kernel) {
  program_->name = kernel.name;
  program_->brief_name = brief_name(kernel.name);
  program_->max_threads = kernel.max_threads;
  constant(0);
  Frame frame(kernel);
  for (const ptx::Variable& parameter : kernel.parameters) {
    const size_t offset = align_up(program_->parameter_bytes, parameter.alignment);
    frame.parameters[parameter.name] = {Space::kParam, offset};
    program_->parameters.push_back({offset, parameter.bytes});
    program_->parameter_bytes = offset + parameter.bytes;
  }
  call_stack_.push_back(kernel.name);
  decode_function(frame);
  append(frame,
         {.guard = "", .opcode = "ret", .operands = {}, .text = "ret", .location = {}, .scope = 0},
         nothing)
      .flow = Flow::kExit;
  program_->dynamic_shared_begin =
      program_->uses_dynamic_shared ? kDynamicSharedBegin : shared_end_;
  return std::move(program_);
}

}  // namespace

LoadedModule::LoadedModule(std::string text) : module_(std::move(text)) {
  for (const ptx::Variable& variable : module_.variables()) variables_[variable.name] = &variable;
  for (const ptx::Variable& variable : module_.variables()) {
    if (variable.space != "shared") place(variable);
  }
  for (const ptx::Variable& variable : module_.variables()) {
    for (const auto& [offset, expression] : variable.addresses) {
      const size_t plus = expression.find('+');
      std::string name = trim(expression.substr(0, plus));
      if (starts_with(name, "generic(")) name = name.substr(8, name.find(')') - 8);
      const uint64_t value =
          addresses_.at(name) + (plus == std::string::npos
                                     ? 0
                                     : std::strtoull(expression.c_str() + plus + 1, nullptr, 0));
      std::memcpy(reinterpret_cast<void*>(addresses_.at(variable.name) + offset), &value,
                  sizeof value);
    }
  }
}

const ptx::Variable* LoadedModule::variable(const std::string& name) const {
  const auto found = variables_.find(name);
  return found == variables_.end() ? nullptr : found->second;
}

// Modules stay loaded until the process ends, and so does their memory.
void LoadedModule::place(const ptx::Variable& variable) {
  const size_t bytes = align_up(std::max<size_t>(variable.bytes, 1), 256);
  void* memory = std::aligned_alloc(256, bytes);
  std::memset(memory, 0, bytes);
  std::copy(variable.initial.begin(), variable.initial.end(), static_cast<unsigned char*>(memory));
  addresses_[variable.name] = reinterpret_cast<uint64_t>(memory);
  global_memory().add(memory, variable.bytes, true);
}

std::unique_ptr<Program> decode(const LoadedModule& module, const ptx::Function& kernel) {
  return Decoder(module).decode(kernel);
}

}  // namespace cudasim
