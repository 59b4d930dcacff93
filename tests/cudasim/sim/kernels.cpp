#include "kernels.h"

#include <map>
#include <memory>
#include <set>

#include "cudasim.h"
#include "decode.h"
#include "machine.h"
#include "report.h"

namespace cudasim {
namespace {

constexpr int kErrorInvalidPtx = 218, kErrorInvalidFunction = 98;

// A kernel is decoded when it is first launched: a fat binary holds many that never are.
struct Kernel {
  LoadedModule* module = nullptr;
  std::unique_ptr<Program> program;
  std::unique_ptr<Program> original;  // while it is replaced
  std::string replaced_text;
  std::set<std::string> covered;  // instructions
};

using KernelKey = std::pair<int, std::string>;  // architecture, mangled name

struct Registry {
  std::vector<std::unique_ptr<LoadedModule>> modules;
  std::map<KernelKey, Kernel> kernels;
};

Registry& registry() {
  static auto* const everything = new Registry;
  return *everything;
}

Kernel& kernel_at(int arch, const std::string& name) {
  const auto found = registry().kernels.find({arch, name});
  if (found == registry().kernels.end()) {
    throw std::out_of_range("cudasim: no kernel " + name + " for compute_" + std::to_string(arch));
  }
  return found->second;
}

}  // namespace

Settings& settings() {
  static Settings current;
  return current;
}

std::vector<Launch>& launches() {
  static auto* const log = new std::vector<Launch>;
  return *log;
}

void load_ptx(int arch, const std::string& module_text) {
  LoadedModule& module =
      *registry().modules.emplace_back(std::make_unique<LoadedModule>(module_text));
  for (const std::string& name : module.ptx().entries()) {
    Kernel& kernel = registry().kernels[{arch, name}] = {};
    kernel.module = &module;
  }
}

std::vector<int> architectures() {
  std::set<int> archs;
  for (const auto& [key, kernel] : registry().kernels) archs.insert(key.first);
  return {archs.begin(), archs.end()};
}

std::vector<std::string> kernels(int arch) {
  std::vector<std::string> names;
  for (const auto& [key, kernel] : registry().kernels) {
    if (key.first == arch) names.push_back(key.second);
  }
  return names;
}

std::string kernel_ptx(int arch, const std::string& name) {
  return kernel_at(arch, name).module->ptx().text(name);
}

void replace_kernel(int arch, const std::string& name, const std::string& entry_text) {
  Kernel& kernel = kernel_at(arch, name);
  std::unique_ptr<Program> replacement =
      decode(*kernel.module, kernel.module->ptx().parse_text(entry_text));
  if (replacement->name != name)
    throw ptx::Error("the replacement of " + name + " is called " + replacement->name);
  if (kernel.replaced_text.empty()) kernel.original = std::move(kernel.program);
  kernel.program = std::move(replacement);
  kernel.replaced_text = entry_text;
}

void restore_kernels() {
  for (auto& [key, kernel] : registry().kernels) {
    if (kernel.replaced_text.empty()) continue;
    kernel.program = std::move(kernel.original);
    kernel.replaced_text.clear();
  }
}

const Program* find_kernel(const std::string& name) {
  const auto found = registry().kernels.find({settings().arch, name});
  if (found == registry().kernels.end()) {
    add_report("no PTX of " + name + " for compute_" + std::to_string(settings().arch) +
               " in this process");
    return nullptr;
  }
  Kernel& kernel = found->second;
  if (kernel.program == nullptr)
    kernel.program = decode(*kernel.module, kernel.module->ptx().parse(name));
  return kernel.program.get();
}

void note_covered(const std::string& name, const Grid& run) {
  std::set<std::string>& texts = kernel_at(settings().arch, name).covered;
  for (size_t i = 0; i < run.executed.size(); ++i) {
    const Program& program = run.program();
    if (run.executed[i]) texts.insert(program.sources[program.code[i].source].text);
  }
}

std::vector<std::string> covered(int arch, const std::string& name) {
  const std::set<std::string>& texts = kernel_at(arch, name).covered;
  return {texts.begin(), texts.end()};
}

int launch(const std::string& name, const unsigned (&grid)[3], const unsigned (&block)[3],
           void** arguments, size_t dynamic_shared_bytes) {
  const Program* program = nullptr;
  try {
    program = find_kernel(name);
  } catch (const ptx::Error& error) {
    add_report(name + ": " + error.what());
    return kErrorInvalidPtx;
  }
  if (program == nullptr) return kErrorInvalidFunction;
  Grid run(*program, grid, block, arguments, dynamic_shared_bytes);
  if (settings().cover) run.executed.resize(program->code.size());
  const int error = run.run();
  note_covered(name, run);
  Launch& record = launches().emplace_back();
  record.kernel = name;
  std::copy(std::begin(grid), std::end(grid), std::begin(record.grid));
  std::copy(std::begin(block), std::end(block), std::begin(record.block));
  record.warp_instructions = run.warp_instructions;
  record.lane_instructions = run.lane_instructions;
  if (settings().trace) record.sites = run.sites.list(*program);
  return error;
}

}  // namespace cudasim
