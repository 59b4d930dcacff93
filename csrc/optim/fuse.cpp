// Tables that an optimizer updates during backward().

#include <myemb/nn.h>
#include <myemb/optim.h>

#include <c10/util/Exception.h>
#include <c10/util/Type.h>
#include <torch/nn/modules/embedding.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <typeinfo>
#include <utility>
#include <vector>

namespace myemb::optim {
namespace {

bool has(const std::vector<at::Tensor>& tensors, const at::Tensor& tensor) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const at::Tensor& other) { return other.is_same(tensor); });
}

template <typename Module>
void add_table(const torch::nn::Module& module, std::vector<at::Tensor>& tables) {
  const auto* const found = dynamic_cast<const Module*>(&module);
  if (found && found->weight.requires_grad() && !has(tables, found->weight)) {
    tables.push_back(found->weight);
  }
}

void add_tables(const torch::nn::Module& module, std::vector<at::Tensor>& tables) {
  add_table<nn::EmbeddingImpl>(module, tables);
  add_table<nn::EmbeddingBagImpl>(module, tables);
  add_table<torch::nn::EmbeddingImpl>(module, tables);
  add_table<torch::nn::EmbeddingBagImpl>(module, tables);
}

}  // namespace

void FusedTables::remove() {
  if (const auto tables = tables_.lock()) tables->clear();
}

TableUpdater::~TableUpdater() = default;

FusedTables TableUpdater::fuse(const std::vector<at::Tensor>& tables) {
  const auto fused = std::make_shared<FusedTables::Tables>();
  for (const at::Tensor& table : tables) {
    fused->push_back(myemb::fuse_in_backward(table, [this, table](bool sparse) {
      const std::lock_guard<std::mutex> lock(mutex_);
      return next_step(table, sparse);
    }));
  }
  fused_.push_back(fused);
  return FusedTables(fused);
}

FusedTables fuse_in_backward(torch::optim::Optimizer& optimizer,
                             const std::vector<at::Tensor>& tables) {
  auto* const updater = dynamic_cast<TableUpdater*>(&optimizer);
  TORCH_CHECK_TYPE(updater, "fuse_in_backward takes an optimizer of myemb::optim, but got a ",
                   c10::demangle(typeid(optimizer).name()));
  TORCH_CHECK_VALUE(!tables.empty(), "fuse_in_backward found no embedding table");
  const auto& groups = optimizer.param_groups();
  for (const at::Tensor& table : tables) {
    TORCH_CHECK_VALUE(std::any_of(groups.begin(), groups.end(),
                                  [&](const auto& group) { return has(group.params(), table); }),
                      "fuse_in_backward: a table of shape ", table.sizes(),
                      " is not among the optimizer's parameters");
  }
  return updater->fuse(tables);
}

FusedTables fuse_in_backward(torch::optim::Optimizer& optimizer, const torch::nn::Module& module) {
  std::vector<at::Tensor> tables;
  add_tables(module, tables);
  // Without itself: a module that no shared pointer holds cannot be listed.
  for (const auto& part : module.modules(/*include_self=*/false)) add_tables(*part, tables);
  return fuse_in_backward(optimizer, tables);
}

}  // namespace myemb::optim
