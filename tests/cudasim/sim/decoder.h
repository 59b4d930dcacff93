// What turns one PTX function, with all that it calls, into a Program. Its parts: names and
// operands (decode_names.cpp), arithmetic (decode_operation.cpp), memory (decode_memory.cpp), and
// what decides where a thread goes on (decode.cpp).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "access.h"
#include "decode.h"
#include "operations.h"
#include "program.h"
#include "ptx.h"

namespace cudasim {

inline constexpr size_t kDynamicSharedBegin = size_t{1} << 16;  // beyond any static shared memory

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

[[noreturn]] void refuse(const ptx::Statement& statement, const std::string& why);

// The handler of what needs none.
inline void nothing(const Instruction& /*instruction*/, Warp& /*warp*/, uint32_t /*active*/) {}

}  // namespace cudasim
