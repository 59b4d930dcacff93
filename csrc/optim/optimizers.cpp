// The optimizers: what the numbers of a step are, and how a parameter makes it.
//
// The numbers are those of python/myemb/optim.py, operation by operation, so that both give the
// same bits.

#include <myemb/ops.h>
#include <myemb/optim.h>
#include <ops/types.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <torch/optim/serialize.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace myemb::optim {
namespace {

// A state as it goes with param now: a new one, or this one in the type and on the device that fit.
at::Tensor fitted(const at::Tensor& state, const at::Tensor& param, at::IntArrayRef shape,
                  double initial = 0) {
  const at::ScalarType type = accumulator_type(param.scalar_type());
  if (!state.defined()) return at::full(shape, initial, param.options().dtype(type));
  return state.to(param.device(), type);
}

UpdateStep begin_adagrad(const at::Tensor& param, const AdagradOptions& options,
                         AdagradParamState& state, UpdateRule rule, at::IntArrayRef shape) {
  state.sum(fitted(state.sum(), param, shape, options.initial_accumulator_value()));
  return {{state.sum()},
          {.rule = rule,
           .lr = options.lr() / (1 + static_cast<double>(state.step() - 1) * options.lr_decay()),
           .eps = options.eps(),
           .weight_decay = options.weight_decay()}};
}

// lr m^ / (sqrt(v^) + eps), m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t), with the corrections
// taken out of the fraction; without weight decay.
template <typename Options, typename State>
UpdateStep begin_adam(const at::Tensor& param, const Options& options, State& state,
                      bool eps_before_correction) {
  state.exp_avg(fitted(state.exp_avg(), param, param.sizes()));
  state.exp_avg_sq(fitted(state.exp_avg_sq(), param, param.sizes()));
  std::vector<at::Tensor> tables{state.exp_avg(), state.exp_avg_sq()};
  if (options.amsgrad()) {
    state.max_exp_avg_sq(fitted(state.max_exp_avg_sq(), param, param.sizes()));
    tables.push_back(state.max_exp_avg_sq());
  }
  const auto [beta1, beta2] = options.betas();
  const auto step = static_cast<double>(state.step());
  const double root = std::sqrt(1 - std::pow(beta2, step));
  return {std::move(tables),
          {.rule = UpdateRule::Adam,
           .lr = options.lr() * root / (1 - std::pow(beta1, step)),
           .eps = eps_before_correction ? options.eps() : options.eps() * root,
           .beta1 = beta1,
           .beta2 = beta2,
           .amsgrad = options.amsgrad()}};
}

// A sparse gradient of rows as one of a table with this shape.
at::Tensor as_table(const at::Tensor& grad, at::IntArrayRef shape) {
  TORCH_CHECK(grad.sparse_dim() == 1,
              "myemb::optim: a sparse gradient has to be one of rows (sparse_dim 1), but that of a "
              "parameter of shape ",
              grad.sizes(), " has sparse_dim ", grad.sparse_dim());
  const at::Tensor values = grad._values().reshape({grad._nnz(), shape[1]});
  return at::_sparse_coo_tensor_unsafe(grad._indices(), values, shape);
}

void update(const at::Tensor& param, const UpdateStep& step, const at::Tensor& grad) {
  const auto& [state, options] = step;
  if (param.dim() == 2) return embedding_update_(param, state, grad, options);
  // Any other parameter is a table: of its first dimension's rows, or of one row.
  const int64_t rows = grad.is_sparse() ? param.size(0) : 1;
  const std::array shape{rows, rows == 0 ? 0 : param.numel() / rows};
  const auto viewed = [&](const at::Tensor& tensor) { return tensor.contiguous().view(shape); };
  const at::Tensor weight = viewed(param);
  std::vector<at::Tensor> tables(state.size());
  std::transform(state.begin(), state.end(), tables.begin(), viewed);
  embedding_update_(weight, tables, grad.is_sparse() ? as_table(grad, shape) : viewed(grad),
                    options);
  const auto copy_back = [](const at::Tensor& to, const at::Tensor& table) {
    if (!to.is_contiguous()) to.copy_(table.view(to.sizes()));
  };
  copy_back(param, weight);
  for (size_t i = 0; i < state.size(); ++i) copy_back(state[i], tables[i]);
}

}  // namespace

template <typename Torch, typename Options, typename State>
TableOptimizer<Torch, Options, State>::TableOptimizer(std::vector<at::Tensor> params,
                                                      Options defaults, RoundingOptions rounding)
    : TableOptimizer(
          std::vector<torch::optim::OptimizerParamGroup>{
              torch::optim::OptimizerParamGroup(std::move(params))},
          std::move(defaults), rounding) {}

// torch gets the groups afterwards: its Adagrad would make the states of those it is given.
template <typename Torch, typename Options, typename State>
TableOptimizer<Torch, Options, State>::TableOptimizer(
    const std::vector<torch::optim::OptimizerParamGroup>& groups, Options defaults,
    RoundingOptions rounding)
    : Torch(std::vector<torch::optim::OptimizerParamGroup>(), std::move(defaults)),
      rounding_(rounding) {
  TORCH_CHECK_VALUE(rounding.seed <= std::numeric_limits<int64_t>::max(),
                    "Invalid seed, has to be less than 2^63: ", rounding.seed);
  for (const auto& group : groups) this->add_param_group(group);
}

template <typename Torch, typename Options, typename State>
at::Tensor TableOptimizer<Torch, Options, State>::step(LossClosure closure) {
  at::Tensor loss;
  if (closure) {
    const at::AutoGradMode with_grad(true);
    loss = closure();
  }
  const at::NoGradGuard no_grad;
  for (const auto& group : this->param_groups_) {
    const auto& options = static_cast<const Options&>(group.options());
    for (const at::Tensor& param : group.params()) {
      const at::Tensor& grad = param.grad();
      if (!grad.defined()) continue;
      State state = state_of(param);
      update(param, count_step(param, options, state, grad.is_sparse()), grad);
      set_state(param, std::move(state));
    }
  }
  return loss;
}

template <typename Torch, typename Options, typename State>
UpdateStep TableOptimizer<Torch, Options, State>::next_step(const at::Tensor& param, bool sparse) {
  for (const auto& group : this->param_groups_) {
    const auto& params = group.params();
    if (std::none_of(params.begin(), params.end(),
                     [&](const at::Tensor& other) { return other.is_same(param); })) {
      continue;
    }
    State state = state_of(param);
    UpdateStep next =
        count_step(param, static_cast<const Options&>(group.options()), state, sparse);
    set_state(param, std::move(state));
    return next;
  }
  TORCH_CHECK_VALUE(false, "a fused table of shape ", param.sizes(),
                    " is not among the parameters of its optimizer any more");
}

template <typename Torch, typename Options, typename State>
UpdateStep TableOptimizer<Torch, Options, State>::count_step(const at::Tensor& param,
                                                             const Options& options, State& state,
                                                             bool sparse) const {
  state.step(state.step() + 1);
  UpdateStep next = begin(param, options, state, sparse);
  next.options.step = static_cast<uint64_t>(state.step());
  if (!is_16_bit(param)) return next;
  next.options.rounding = rounding_.rounding;
  next.options.seed = rounding_.seed;
  if (rounding_.rounding == Rounding::Split) {
    const at::Tensor& known = state.low_halves();
    state.low_halves(known.defined() ? known.to(param.device())
                                     : at::zeros(param.sizes(), param.options().dtype(at::kShort)));
    next.state.push_back(state.low_halves());
  }
  return next;
}

template <typename Torch, typename Options, typename State>
State TableOptimizer<Torch, Options, State>::state_of(const at::Tensor& param) const {
  const auto found = this->state_.find(param.unsafeGetTensorImpl());
  if (found == this->state_.end()) return {};
  const auto* const state = dynamic_cast<const State*>(found->second.get());
  TORCH_CHECK_TYPE(state, "the state of a parameter of shape ", param.sizes(),
                   " is not of an optimizer of myemb::optim");
  return *state;
}

template <typename Torch, typename Options, typename State>
void TableOptimizer<Torch, Options, State>::set_state(const at::Tensor& param, State state) {
  this->state_[param.unsafeGetTensorImpl()] = std::make_unique<State>(std::move(state));
}

template <typename Torch, typename Options, typename State>
void TableOptimizer<Torch, Options, State>::save(torch::serialize::OutputArchive& archive) const {
  Torch::save(archive);
  archive.write("rounding", c10::IValue(std::string(name_of(rounding_.rounding))));
  archive.write("seed", c10::IValue(static_cast<int64_t>(rounding_.seed)));
}

template <typename Torch, typename Options, typename State>
void TableOptimizer<Torch, Options, State>::load(torch::serialize::InputArchive& archive) {
  auto groups = this->param_groups_;
  auto states = std::exchange(this->state_, {});
  try {
    torch::optim::serialize<State, Options>(archive, *this);
    c10::IValue rounded, seed;
    // torch's archives have neither.
    if (archive.try_read("rounding", rounded) && archive.try_read("seed", seed)) {
      rounding_ = {rounding(rounded.toStringRef()), static_cast<uint64_t>(seed.toInt())};
    }
  } catch (...) {
    this->param_groups_ = std::move(groups);
    this->state_ = std::move(states);
    throw;
  }
}

template class TableOptimizer<torch::optim::SGD, SGDOptions, SGDParamState>;
template class TableOptimizer<torch::optim::Adagrad, AdagradOptions, AdagradParamState>;
template class TableOptimizer<torch::optim::Adam, AdamOptions, AdamParamState>;
template class TableOptimizer<torch::optim::AdamW, AdamWOptions, AdamWParamState>;

UpdateStep SGD::begin(const at::Tensor& param, const SGDOptions& options, SGDParamState& state,
                      bool /*sparse*/) const {
  UpdateStep next{{},
                  {.rule = UpdateRule::Sgd,
                   .lr = options.lr(),
                   .weight_decay = options.weight_decay(),
                   .momentum = options.momentum(),
                   .nesterov = options.nesterov()}};
  if (options.momentum() == 0) return next;
  const bool is_first = !state.momentum_buffer().defined();
  next.options.dampening = is_first ? 0 : options.dampening();
  state.momentum_buffer(fitted(state.momentum_buffer(), param, param.sizes()));
  next.state.push_back(state.momentum_buffer());
  return next;
}

UpdateStep Adagrad::begin(const at::Tensor& param, const AdagradOptions& options,
                          AdagradParamState& state, bool /*sparse*/) const {
  return begin_adagrad(param, options, state, UpdateRule::Adagrad, param.sizes());
}

UpdateStep RowWiseAdagrad::begin(const at::Tensor& param, const AdagradOptions& options,
                                 AdagradParamState& state, bool /*sparse*/) const {
  TORCH_CHECK_VALUE(param.dim() == 2,
                    "RowWiseAdagrad is for tables of rows, but a parameter has shape ",
                    param.sizes());
  return begin_adagrad(param, options, state, UpdateRule::RowWiseAdagrad,
                       param.sizes().slice(0, 1));
}

UpdateStep Adam::begin(const at::Tensor& param, const AdamOptions& options, AdamParamState& state,
                       bool sparse) const {
  UpdateStep next = begin_adam(param, options, state, /*eps_before_correction=*/sparse);
  next.options.weight_decay = options.weight_decay();
  return next;
}

UpdateStep AdamW::begin(const at::Tensor& param, const AdamWOptions& options,
                        AdamWParamState& state, bool /*sparse*/) const {
  UpdateStep next = begin_adam(param, options, state, /*eps_before_correction=*/false);
  next.options.shrink = options.lr() * options.weight_decay();
  return next;
}

}  // namespace myemb::optim
