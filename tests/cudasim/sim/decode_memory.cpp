// Loads, stores and atomics.

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "decoder.h"
#include "text.h"

namespace cudasim {
namespace {

int bits_of(const std::string& type) {
  const size_t digits = type.find_first_of("0123456789");
  return digits == std::string::npos
             ? 0
             : static_cast<int>(std::strtol(type.c_str() + digits, nullptr, 10));
}

}  // namespace

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

}  // namespace cudasim
