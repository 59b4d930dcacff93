// The checks of embedding_update_, which every device makes.

#include <ops/update.h>

#include <ops/checks.h>
#include <ops/decompositions.h>
#include <ops/types.h>

#include <ATen/MemoryOverlap.h>
#include <c10/util/Exception.h>
#include <policies/optimizers.h>
#include <torch/csrc/autograd/variable.h>

#include <array>

namespace myemb {
namespace {

constexpr auto kOp = "embedding_update_";
constexpr std::array kRules{"sgd", "adagrad", "row_wise_adagrad", "adam"};  // of UpdateRule
constexpr std::array kRoundings{"nearest", "stochastic", "split"};          // of Rounding

template <typename Enum, size_t kCount>
Enum value_of(std::string_view name, const std::array<const char*, kCount>& names,
              const char* what) {
  for (size_t i = 0; i < kCount; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
  }
  TORCH_CHECK_VALUE(false, kOp, ": ", what, " has to be one of ", c10::Join(", ", names),
                    " but got ", name);
}

void check_table(const at::Tensor& weight, Rounding rounding) {
  TORCH_CHECK(weight.dim() == 2, kOp,
              ": weight has to be a 2D Tensor, but got Tensor of dimension ", weight.dim());
  const at::ScalarType type = weight.scalar_type();
  TORCH_CHECK(type == at::kDouble || type == at::kFloat || is_16_bit(weight), kOp,
              ": weight has to be Double, Float, Half or BFloat16, but is ", c10::toString(type));
  TORCH_CHECK(rounding != Rounding::Split || type == at::kBFloat16, kOp,
              ": rounding split is for BFloat16 weights, but they are ", c10::toString(type));
}

// Of what would otherwise be noticed steps later.
void check_numbers(const UpdateOptions& options) {
  const auto check = [](const char* name, double value, bool is_right, const char* range) {
    TORCH_CHECK_VALUE(is_right, kOp, ": ", name, " has to be ", range, ", but is ", value);
  };
  const auto check_not_negative = [&](const char* name, double value) {
    check(name, value, value >= 0, "0 or more");
  };
  check_not_negative("lr", options.lr);
  check_not_negative("eps", options.eps);
  check_not_negative("weight_decay", options.weight_decay);
  check_not_negative("shrink", options.shrink);
  check_not_negative("momentum", options.momentum);
  for (const double beta : {options.beta1, options.beta2}) {
    check("a beta", beta, beta >= 0 && beta < 1, "in [0, 1)");
  }
}

struct State {
  const char* what;
  at::ScalarType type;
  bool by_row;
};

// The states that a step has, in order.
std::vector<State> states_of(const UpdateOptions& options, at::ScalarType weights) {
  const at::ScalarType type = accumulator_type(weights);
  std::vector<State> states;
  if (options.rule == UpdateRule::RowWiseAdagrad) states.push_back({"a row", type, true});
  states.resize(states.size() + count_states(options), {"a weight", type, false});
  if (options.rounding == Rounding::Split) states.push_back({"low halves", at::kShort, false});
  return states;
}

void check_state(const TableUpdate& update) {
  const at::Tensor& weight = update.weight;
  const auto expected = states_of(update.options, weight.scalar_type());
  TORCH_CHECK(update.state.size() == expected.size(), kOp, ": ", name_of(update.options.rule),
              " has ", expected.size(), " state tensors here, but got ", update.state.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const at::Tensor& state = update.state[i];
    c10::SymDimVector shape(weight.sym_sizes().begin(), weight.sym_sizes().end());
    if (expected[i].by_row) shape.pop_back();
    TORCH_CHECK(
        state.sym_sizes() == c10::SymIntArrayRef(shape) && state.scalar_type() == expected[i].type,
        kOp, ": state[", i, "] has to be ", c10::SymIntArrayRef(shape), " of ",
        c10::toString(expected[i].type), ", but is ", state.sym_sizes(), " of ",
        c10::toString(state.scalar_type()));
    TORCH_CHECK(state.device() == weight.device(), kOp, ": state[", i, "] is on ", state.device(),
                " and weight on ", weight.device());
  }
}

void check_gradient(const TableUpdate& update) {
  const at::Tensor &weight = update.weight, &grad = update.grad;
  const UpdateLookups& lookups = update.lookups;
  TORCH_CHECK(grad.scalar_type() == weight.scalar_type(), kOp, ": grad has to be ",
              c10::toString(weight.scalar_type()), " as weight is, but is ",
              c10::toString(grad.scalar_type()));
  TORCH_CHECK(grad.device() == weight.device(), kOp, ": grad is on ", grad.device(),
              " and weight on ", weight.device());
  if (!lookups.indices) {
    TORCH_CHECK(!lookups.offsets && !lookups.positions && !lookups.per_sample_weights, kOp,
                ": offsets, positions and per_sample_weights go with indices");
    TORCH_CHECK(grad.sym_sizes() == weight.sym_sizes(), kOp, ": without indices grad has to be ",
                weight.sym_sizes(), " as weight is, but is ", grad.sym_sizes());
    TORCH_CHECK(!grad.is_sparse() || (grad.sparse_dim() == 1 && grad.dense_dim() == 1), kOp,
                ": a sparse grad has to be one of rows (sparse_dim 1), but has sparse_dim ",
                grad.is_sparse() ? grad.sparse_dim() : 0);
    return;
  }
  const BagArguments bags{*lookups.indices, lookups.offsets, lookups.per_sample_weights,
                          lookups.include_last_offset};
  check_bag_gradient(grad, lookups.positions, bags, lookups.mode);
  TORCH_CHECK(grad.sym_size(1) == weight.sym_size(1), kOp, ": grad has to be (B, ",
              weight.sym_size(1), "), but is ", grad.sym_sizes());
  if (is_mode(lookups.mode, BagMode::Max)) check_max_options(lookups.scale_grad_by_freq, false);
  wrap_padding_idx(lookups.padding_idx, weight.sym_size(0));
}

}  // namespace

UpdateRule update_rule(std::string_view name) { return value_of<UpdateRule>(name, kRules, "rule"); }

Rounding rounding(std::string_view name) {
  return value_of<Rounding>(name, kRoundings, "rounding");
}

const char* name_of(UpdateRule rule) { return kRules[static_cast<size_t>(rule)]; }

const char* name_of(Rounding rounding) { return kRoundings[static_cast<size_t>(rounding)]; }

UpdateOptions named_options(std::string_view rule, double lr, double eps, double weight_decay,
                            double shrink, bool maximize, double momentum, double dampening,
                            bool nesterov, double beta1, double beta2, bool amsgrad,
                            std::string_view rounded, int64_t seed, int64_t step) {
  TORCH_CHECK_VALUE(seed >= 0 && step >= 0, kOp, ": seed and step have to be 0 or more, but are ",
                    seed, " and ", step);
  return {update_rule(rule),
          lr,
          eps,
          weight_decay,
          shrink,
          maximize,
          momentum,
          dampening,
          nesterov,
          beta1,
          beta2,
          amsgrad,
          rounding(rounded),
          static_cast<uint64_t>(seed),
          static_cast<uint64_t>(step)};
}

size_t count_state_tensors(const UpdateOptions& options) {
  return states_of(options, at::kFloat).size();
}

void check_updated_table(const TableUpdate& update) {
  check_numbers(update.options);
  check_table(update.weight, update.options.rounding);
  check_state(update);
}

void check_update(const TableUpdate& update) {
  check_updated_table(update);
  check_gradient(update);
}

void check_written_in_place(const at::Tensor& weight, at::TensorList state) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !is_transformed(),
      "myemb: a step of an optimizer changes its table in place, and is no function that "
      "torch.func (vmap, grad, vjp, jvp, functionalize) could transform: make it outside");
  TORCH_CHECK_NOT_IMPLEMENTED(
      !needs_decomposition({&weight}),
      "Trying to use forward AD with a step of an optimizer, which does not support it");
  TORCH_CHECK(!wants_gradient(weight),
              "a leaf Variable that requires grad is being used in an in-place operation.");
  for (const at::Tensor& tensor : state) {
    TORCH_CHECK(!wants_gradient(tensor),
                "a state that requires grad is being used in an in-place operation.");
  }
}

void bump_versions(at::TensorList written) {
  for (const at::Tensor& tensor : written) torch::autograd::impl::bump_version(tensor);
}

ContiguousUpdate::ContiguousUpdate(const TableUpdate& update)
    : weight(update.weight.contiguous()), update_(update) {
  std::vector<at::Tensor> all{update.weight};
  all.insert(all.end(), update.state.begin(), update.state.end());
  if (!update.grad.is_sparse()) all.push_back(update.grad);
  for (size_t i = 0; i <= update.state.size(); ++i) {  // what is written
    at::assert_no_internal_overlap(all[i]);
    for (size_t j = i + 1; j < all.size(); ++j) at::assert_no_overlap(all[i], all[j]);
  }
  for (const at::Tensor& tensor : update.state) state.push_back(tensor.contiguous());
}

void ContiguousUpdate::copy_back() const {
  const auto copy_if_other = [](const at::Tensor& to, const at::Tensor& from) {
    if (!to.is_same(from)) to.copy_(from);
  };
  copy_if_other(update_.weight, weight);
  for (size_t i = 0; i < state.size(); ++i) copy_if_other(update_.state[i], state[i]);
}

}  // namespace myemb
