// Names and operands: registers, variables, parameters and constants.

#include <algorithm>

#include "decoder.h"
#include "text.h"

namespace cudasim {
namespace {

constexpr size_t kRedZone = 128;  // between shared arrays

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

}  // namespace

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

}  // namespace cudasim
