// From PTX text to a Program.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "program.h"
#include "ptx.h"

namespace cudasim {

// A module whose variables have memory.
class LoadedModule {
 public:
  explicit LoadedModule(std::string text);

  const ptx::Module& ptx() const { return module_; }
  const ptx::Variable* variable(const std::string& name) const;
  uint64_t address(const std::string& name) const {
    return addresses_.at(name);
  }  // of .global and .const

 private:
  void place(const ptx::Variable& variable);

  ptx::Module module_;
  std::unordered_map<std::string, const ptx::Variable*> variables_;
  std::unordered_map<std::string, uint64_t> addresses_;
};

// Throws ptx::Error for anything that is not known.
std::unique_ptr<Program> decode(const LoadedModule& module, const ptx::Function& kernel);

}  // namespace cudasim
