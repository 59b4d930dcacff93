#pragma once

// torch::optim's SGD, Adagrad, Adam and AdamW for embedding tables, in one pass over the rows that
// were looked up, and row-wise Adagrad.
//
// Each is torch's optimizer of its name (RowWiseAdagrad is an Adagrad), with its options, parameter
// groups, equations and archives: schedulers, torch::save and torch::load work as they do there,
// and either loads what the other saved. What is different:
//   - Sparse gradients, duplicates included, are summed and applied without a coalesced copy. A row
//     without an entry stays as it is, states included. So weight_decay, momentum, Adam and AdamW
//     work with sparse gradients; for those, Adam is Python's torch.optim.SparseAdam (eps is added
//     to the root before the bias correction and not after it).
//   - States have the accumulator type (fp64 for double, otherwise fp32), and 16-bit weights are
//     rounded as RoundingOptions say. A state is made, or brought to this type and to the device of
//     its parameter, when its parameter makes a step.
//   - fuse_in_backward updates tables during backward(): no gradient is stored.
//   - The update of a parameter that throws changes nothing: neither weights nor states, nor,
//     unless the table is fused, its count of steps.
//   - load() takes over everything or, if it throws, nothing. The state of a parameter that has
//     none in the archive is dropped.
//   - They cannot be moved: their fused tables refer to them.
//
// Parameters are fp64, fp32, fp16 or bf16, of any shape; sparse gradients are those of rows
// (sparse_dim 1). Updates have the same bits for every number of threads.

#include <myemb/export.h>
#include <myemb/fuse.h>
#include <myemb/update.h>
#include <torch/nn/module.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace myemb::optim {

using torch::optim::AdagradOptions;
using torch::optim::AdamOptions;
using torch::optim::AdamWOptions;
using torch::optim::SGDOptions;

// How the 16-bit parameters of an optimizer are rounded; the others are not. Rounding::Split is for
// bf16, a step of an fp16 parameter throws c10::Error. save() writes them, load() takes them over.
struct RoundingOptions {
  Rounding rounding = Rounding::Nearest;
  uint64_t seed = 0;  // of stochastic rounding; less than 2^63
};

// The state of a parameter: torch's, and the low halves of its weights, int16 in the shape of the
// parameter, with Rounding::Split (undefined otherwise).
template <typename TorchState>
class MYEMB_API ParamState : public TorchState {
  TORCH_ARG(torch::Tensor, low_halves);

 public:
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  std::unique_ptr<torch::optim::OptimizerParamState> clone() const override;
};

// torch's does not count the steps; stochastic rounding needs them.
class MYEMB_API SGDParamState : public ParamState<torch::optim::SGDParamState> {
  TORCH_ARG(int64_t, step) = 0;

 public:
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  std::unique_ptr<torch::optim::OptimizerParamState> clone() const override;
};

using AdagradParamState = ParamState<torch::optim::AdagradParamState>;  // sum (V,) if row-wise
using AdamParamState = ParamState<torch::optim::AdamParamState>;
using AdamWParamState = ParamState<torch::optim::AdamWParamState>;

// Tables that are updated during backward(), until remove() or until their optimizer is gone.
// Dropping this changes nothing.
class MYEMB_API FusedTables {
 public:
  // Ends it: gradients are stored again. Does nothing if it has ended.
  void remove();

 private:
  using Tables = std::vector<std::shared_ptr<FusedTable>>;

  explicit FusedTables(const std::shared_ptr<Tables>& tables) : tables_(tables) {}

  friend class TableUpdater;
  std::weak_ptr<Tables> tables_;  // the optimizer's
};

// What fuse_in_backward asks of an optimizer.
class MYEMB_API TableUpdater {
 public:
  TableUpdater() = default;
  TableUpdater(const TableUpdater&) = delete;
  TableUpdater& operator=(const TableUpdater&) = delete;
  virtual ~TableUpdater();

 private:
  friend MYEMB_API FusedTables fuse_in_backward(torch::optim::Optimizer& optimizer,
                                                const std::vector<torch::Tensor>& tables);

  // Begins the next step of a parameter. Throws c10::ValueError if it is not among those of the
  // optimizer any more.
  virtual UpdateStep next_step(const torch::Tensor& param, bool sparse) = 0;
  FusedTables fuse(const std::vector<torch::Tensor>& tables);

  std::mutex mutex_;  // of next_step: tables on several devices are updated by several threads
  std::vector<std::shared_ptr<FusedTables::Tables>> fused_;
};

// What the optimizers below share.
template <typename Torch, typename Options, typename State>
class MYEMB_API TableOptimizer : public Torch, public TableUpdater {
 public:
  using typename Torch::LossClosure;

  // Options out of their range throw c10::Error, as in torch, a seed c10::ValueError; parameters
  // are leaves.
  explicit TableOptimizer(std::vector<torch::Tensor> params, Options defaults = {},
                          RoundingOptions rounding = {});
  explicit TableOptimizer(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                          Options defaults = {}, RoundingOptions rounding = {});

  // Updates every parameter that has a gradient. Returns what closure, which evaluates the model
  // again, does, or an undefined tensor. Throws c10::IndexError for a row outside of a table, and
  // c10::Error for a gradient, a dtype or a loaded state that does not fit.
  torch::Tensor step(LossClosure closure = nullptr) override;

  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

 private:
  // The tables and the numbers of step state.step(); makes what state lacks.
  virtual UpdateStep begin(const torch::Tensor& param, const Options& options, State& state,
                           bool sparse) const = 0;

  UpdateStep next_step(const torch::Tensor& param, bool sparse) override;
  UpdateStep count_step(const torch::Tensor& param, const Options& options, State& state,
                        bool sparse) const;
  State state_of(const torch::Tensor& param) const;
  void set_state(const torch::Tensor& param, State state);

  RoundingOptions rounding_;
};

// torch::optim::SGD. The first step of a parameter has no dampening, as in torch.
class MYEMB_API SGD final : public TableOptimizer<torch::optim::SGD, SGDOptions, SGDParamState> {
 public:
  using TableOptimizer::TableOptimizer;

 private:
  UpdateStep begin(const torch::Tensor& param, const SGDOptions& options, SGDParamState& state,
                   bool sparse) const override;
};

// torch::optim::Adagrad. Sums begin with the initial_accumulator_value of their group.
class MYEMB_API Adagrad final
    : public TableOptimizer<torch::optim::Adagrad, AdagradOptions, AdagradParamState> {
 public:
  using TableOptimizer::TableOptimizer;

 private:
  UpdateStep begin(const torch::Tensor& param, const AdagradOptions& options,
                   AdagradParamState& state, bool sparse) const override;
};

// Adagrad with one sum for each row, of the mean squares of its gradients: FBGEMM's
// EXACT_ROWWISE_ADAGRAD. The state of a table (V, D) is (V,); a step of a parameter that is not 2-D
// throws c10::ValueError.
class MYEMB_API RowWiseAdagrad final
    : public TableOptimizer<torch::optim::Adagrad, AdagradOptions, AdagradParamState> {
 public:
  using TableOptimizer::TableOptimizer;

 private:
  UpdateStep begin(const torch::Tensor& param, const AdagradOptions& options,
                   AdagradParamState& state, bool sparse) const override;
};

// torch::optim::Adam, and Python's torch.optim.SparseAdam for sparse gradients.
class MYEMB_API Adam final
    : public TableOptimizer<torch::optim::Adam, AdamOptions, AdamParamState> {
 public:
  using TableOptimizer::TableOptimizer;

 private:
  UpdateStep begin(const torch::Tensor& param, const AdamOptions& options, AdamParamState& state,
                   bool sparse) const override;
};

// torch::optim::AdamW. With sparse gradients the rows that have an entry decay.
class MYEMB_API AdamW final
    : public TableOptimizer<torch::optim::AdamW, AdamWOptions, AdamWParamState> {
 public:
  using TableOptimizer::TableOptimizer;

 private:
  UpdateStep begin(const torch::Tensor& param, const AdamWOptions& options, AdamWParamState& state,
                   bool sparse) const override;
};

// From now on backward() updates `tables` (V, D) and stores no gradient of theirs, until remove()
// or until the optimizer is gone; it must not be destroyed during a backward pass.
//
// Lookups by myemb need no gradient to be computed. Where a table is looked up more than once in a
// graph, or is used by other operations, too, its one step waits for all of them; a dense gradient
// of another operation makes it the step of a dense gradient. Otherwise rows that were not looked
// up stay as they are, whether or not the module's gradients are sparse. optimizer.step() goes on
// serving everything else, and schedulers change the rates as ever. What depends on a stored
// gradient cannot have one: clipping, accumulation (each backward pass is a step), hooks on the
// table.
//
// Throws, and has then fused none: c10::TypeError, the optimizer is not of this header;
// c10::ValueError, there is no table, one is not 2-D or not among the parameters of the optimizer;
// c10::Error, one is fused already or no leaf that requires grad. backward() with create_graph
// throws c10::Error; torch::autograd::grad returns the gradient and leaves the table alone.
MYEMB_API FusedTables fuse_in_backward(torch::optim::Optimizer& optimizer,
                                       const std::vector<torch::Tensor>& tables);

// The tables of a module that require grad: those of myemb::nn::Embedding and EmbeddingBag and of
// torch::nn's, of its submodules and its own.
MYEMB_API FusedTables fuse_in_backward(torch::optim::Optimizer& optimizer,
                                       const torch::nn::Module& module);

}  // namespace myemb::optim
