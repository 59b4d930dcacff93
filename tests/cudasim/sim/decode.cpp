#include "decode.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "builtins.h"
#include "decoder.h"
#include "memory.h"
#include "report.h"
#include "text.h"

namespace cudasim {
namespace {

const std::set<std::string>& ignored_opcodes() {
  static const std::set<std::string> names = {"prefetch",     "prefetchu",    "griddepcontrol",
                                              "createpolicy", "brkpt",        "pmevent",
                                              "discard",      "applypriority"};
  return names;
}

}  // namespace

[[noreturn]] void refuse(const ptx::Statement& statement, const std::string& why) {
  throw ptx::Error(why + ": `" + statement.text + "`" +
                   (statement.location.line != 0 ? " at " + statement.location.file + ":" +
                                                       std::to_string(statement.location.line)
                                                 : ""));
}

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
