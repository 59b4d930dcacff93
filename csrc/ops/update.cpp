// embedding_update_: a step of an optimizer, for autograd and fake tensors.

#include <ops/update.h>

#include <ops/typed_op.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

namespace myemb {
namespace {

const auto& embedding_update_op() {
  static const auto op =
      typed_op<decltype(embedding_update_kernel<check_update>)>("myemb::embedding_update_");
  return op;
}

// Goes to the dispatcher with everything in its place.
void call_op(const TableUpdate& update) {
  const auto& [weight, state, grad, lookups, options] = update;
  embedding_update_op().call(
      weight, state, grad, lookups.indices, lookups.offsets, lookups.positions,
      lookups.per_sample_weights, lookups.scale_grad_by_freq, lookups.mode,
      lookups.include_last_offset, lookups.padding_idx, name_of(options.rule), options.lr,
      options.eps, options.weight_decay, options.shrink, options.maximize, options.momentum,
      options.dampening, options.nesterov, options.beta1, options.beta2, options.amsgrad,
      name_of(options.rounding), static_cast<int64_t>(options.seed),
      static_cast<int64_t>(options.step));
}

void update_autograd(const TableUpdate& update) {
  TORCH_CHECK(!wants_gradient(update.weight),
              "a leaf Variable that requires grad is being used in an in-place operation.");
  for (const at::Tensor& state : update.state) {
    TORCH_CHECK(!wants_gradient(state),
                "embedding_update_: a state that requires grad is being used "
                "in an in-place operation.");
  }
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    call_op(update);
  }
  torch::autograd::impl::bump_version(update.weight);
  for (const at::Tensor& state : update.state) torch::autograd::impl::bump_version(state);
}

}  // namespace

void embedding_update_(const at::Tensor& weight, at::TensorList state, const at::Tensor& grad,
                       const UpdateOptions& options, const UpdateLookups& lookups) {
  call_op({weight, state, grad, lookups, options});
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) {
  m.impl("embedding_update_", &embedding_update_kernel<check_update>);
}

TORCH_LIBRARY_IMPL(myemb, SparseMeta, m) {
  m.impl("embedding_update_", &embedding_update_kernel<check_update>);
}

TORCH_LIBRARY_IMPL(myemb, Autograd, m) {
  m.impl("embedding_update_", &embedding_update_kernel<update_autograd>);
}

}  // namespace myemb
