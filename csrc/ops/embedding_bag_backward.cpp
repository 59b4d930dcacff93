// The gradients of embedding_bag as ops. Both are linear in every input and each other's adjoint,
// so that their own gradients are again embedding_bag, its dense gradient and the gradient of its
// weights:
//
//   S(W, p)_b = sum_i s_i p_i W[r_i]                forward; s_i = 1, or 1 / count of the bag
//   G(g, p)_r = f_r sum_{i: r_i = r} s_i p_i g[b_i] dense gradient; f_r = 1, or 1 / frequency
//   P(g, W)_i = s_i <g[b_i], W[r_i]>                gradient of the weights p
//
//   dG/dg applied to H: S(H, p f)     dG/dp applied to H: f P(g, H)
//   dP/dg applied to h: S(W, h)       dP/dW applied to h: G(g, h)
//
// In mode max the sums run over the columns whose maximum a lookup was, which positions tell.

#include <myemb/ops.h>
#include <ops/checks.h>
#include <ops/decompositions.h>
#include <ops/saved.h>
#include <ops/sparse_rows.h>
#include <ops/typed_op.h>
#include <ops/types.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace myemb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor dense_backward_meta(const at::Tensor& grad_output, const at::Tensor& indices,
                               const OptionalTensor& offsets, const OptionalTensor& positions,
                               c10::SymInt num_weights, bool /*scale_grad_by_freq*/, int64_t mode,
                               const OptionalTensor& per_sample_weights, bool include_last_offset,
                               OptionalSymInt padding_idx) {
  check_bag_gradient(grad_output, positions,
                     {indices, offsets, per_sample_weights, include_last_offset}, mode);
  wrap_padding_idx(padding_idx, num_weights);
  return grad_output.new_empty_symint({num_weights, grad_output.sym_size(1)});
}

at::Tensor sparse_backward_meta(const at::Tensor& grad_output, const at::Tensor& indices,
                                const OptionalTensor& offsets, c10::SymInt num_weights,
                                bool /*scale_grad_by_freq*/, int64_t mode,
                                const OptionalTensor& per_sample_weights, bool include_last_offset,
                                OptionalSymInt padding_idx) {
  check_bag_gradient(grad_output, std::nullopt,
                     {indices, offsets, per_sample_weights, include_last_offset}, mode);
  wrap_padding_idx(padding_idx, num_weights);
  return grad_output.new_empty_symint({indices.sym_numel(), grad_output.sym_size(1)});
}

at::Tensor per_sample_weights_backward_meta(const at::Tensor& grad_output, const at::Tensor& weight,
                                            const at::Tensor& indices,
                                            const OptionalTensor& offsets,
                                            const OptionalTensor& positions, int64_t mode,
                                            bool include_last_offset, OptionalSymInt padding_idx) {
  check_bag_gradient(grad_output, positions, {indices, offsets, std::nullopt, include_last_offset},
                     mode);
  check_weight_of_gradient(grad_output, weight);
  wrap_padding_idx(padding_idx, weight.sym_size(0));
  return weight.new_empty_symint(indices.sym_sizes(),
                                 weight.options().dtype(accumulator_type(weight.scalar_type())));
}

// The lookups of a backward call, kept by its autograd node.
struct SavedBags {
  at::Tensor indices;
  OptionalTensor offsets;
  OptionalTensor positions;
  int64_t mode;
  bool include_last_offset;
  OptionalSymInt padding_idx;

  void save(AutogradContext* ctx) const {
    ctx->saved_data["mode"] = mode;
    ctx->saved_data["include_last_offset"] = include_last_offset;
    ctx->saved_data["padding_idx"] = saved(padding_idx);
  }

  static SavedBags load(AutogradContext* ctx, const variable_list& tensors) {
    return {tensors[0],
            if_defined(tensors[1]),
            if_defined(tensors[2]),
            ctx->saved_data["mode"].toInt(),
            ctx->saved_data["include_last_offset"].toBool(),
            loaded(ctx->saved_data["padding_idx"])};
  }

  // S: the forward pass over another table or with other weights.
  at::Tensor forward(const at::Tensor& table, const OptionalTensor& weights) const {
    if (positions) return gather_positions(table, indices, *positions, weights);
    return myemb::embedding_bag(table, indices, offsets, false, mode, false, weights,
                                include_last_offset, padding_idx);
  }

  // G
  at::Tensor dense(const at::Tensor& grad, const c10::SymInt& num_weights,
                   const OptionalTensor& weights) const {
    return myemb::embedding_bag_dense_backward(grad, indices, offsets, positions, num_weights,
                                               false, mode, weights, include_last_offset,
                                               padding_idx);
  }

  // P
  at::Tensor weights(const at::Tensor& grad, const at::Tensor& table) const {
    return myemb::embedding_bag_per_sample_weights_backward(
        grad, table, indices, offsets, positions, mode, include_last_offset, padding_idx);
  }
};

class DenseBackwardFunction : public torch::autograd::Function<DenseBackwardFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& grad_output,
                            const OptionalTensor& per_sample_weights, const SavedBags& bags,
                            const c10::SymInt& num_weights, bool scale_grad_by_freq) {
    const at::AutoDispatchBelowADInplaceOrView below;
    bags.save(ctx);
    const bool save_grad = per_sample_weights && per_sample_weights->requires_grad();
    ctx->save_for_backward({bags.indices, saved(bags.offsets), saved(bags.positions),
                            save_grad ? grad_output : at::Tensor(), saved(per_sample_weights)});
    ctx->set_materialize_grads(false);
    ctx->saved_data["num_weights"] = num_weights;
    ctx->saved_data["scale_grad_by_freq"] = scale_grad_by_freq;
    return myemb::embedding_bag_dense_backward(
        grad_output, bags.indices, bags.offsets, bags.positions, num_weights, scale_grad_by_freq,
        bags.mode, per_sample_weights, bags.include_last_offset, bags.padding_idx);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(5);
    const variable_list tensors = ctx->get_saved_variables();
    const SavedBags bags = SavedBags::load(ctx, tensors);
    const at::Tensor &grad_output = tensors[3], &table = grads[0];
    OptionalTensor weights = if_defined(tensors[4]), frequency;
    if (ctx->saved_data["scale_grad_by_freq"].toBool()) {
      frequency = inverse_frequency(bags.indices.reshape({-1}),
                                    ctx->saved_data["num_weights"].toSymInt(), table.scalar_type())
                      .reshape_symint(bags.indices.sym_sizes());
    }
    at::Tensor grad_grad, grad_weights;
    if (weights && grad_output.defined() && ctx->needs_input_grad(1)) {
      grad_weights = bags.weights(grad_output, table);
      if (frequency) grad_weights = grad_weights * *frequency;
      grad_weights = grad_weights.to(weights->scalar_type());
    }
    if (frequency) weights = weights ? *weights * *frequency : *frequency;
    if (ctx->needs_input_grad(0)) grad_grad = bags.forward(table, weights);
    return {grad_grad, grad_weights, {}, {}, {}};
  }
};

class PerSampleWeightsBackwardFunction
    : public torch::autograd::Function<PerSampleWeightsBackwardFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& grad_output,
                            const at::Tensor& weight, const SavedBags& bags) {
    const at::AutoDispatchBelowADInplaceOrView below;
    bags.save(ctx);
    ctx->save_for_backward(
        {bags.indices, saved(bags.offsets), saved(bags.positions), grad_output, weight});
    ctx->set_materialize_grads(false);
    return bags.weights(grad_output, weight);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(3);
    const variable_list tensors = ctx->get_saved_variables();
    const SavedBags bags = SavedBags::load(ctx, tensors);
    const at::Tensor &grad_output = tensors[3], &weight = tensors[4];
    at::Tensor grad_grad, grad_weight;
    if (ctx->needs_input_grad(0)) grad_grad = bags.forward(weight, grads[0]);
    if (ctx->needs_input_grad(1)) {
      grad_weight = bags.dense(grad_output, weight.sym_size(0), grads[0]);
    }
    return {grad_grad, grad_weight, {}};
  }
};

at::Tensor dense_backward_autograd(const at::Tensor& grad_output, const at::Tensor& indices,
                                   const OptionalTensor& offsets, const OptionalTensor& positions,
                                   c10::SymInt num_weights, bool scale_grad_by_freq, int64_t mode,
                                   const OptionalTensor& per_sample_weights,
                                   bool include_last_offset, OptionalSymInt padding_idx) {
  if (needs_decomposition({&grad_output, pointer(per_sample_weights)})) {
    const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
    check_bag_gradient(grad_output, positions, bags, mode);
    return decompose_bag_dense_backward(grad_output, bags, positions, num_weights,
                                        scale_grad_by_freq, mode,
                                        wrap_padding_idx(padding_idx, num_weights));
  }
  if (wants_gradient(grad_output) || wants_gradient(per_sample_weights)) {
    const SavedBags bags{indices, offsets, positions, mode, include_last_offset, padding_idx};
    return DenseBackwardFunction::apply(grad_output, per_sample_weights, bags, num_weights,
                                        scale_grad_by_freq);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return myemb::embedding_bag_dense_backward(grad_output, indices, offsets, positions, num_weights,
                                             scale_grad_by_freq, mode, per_sample_weights,
                                             include_last_offset, padding_idx);
}

at::Tensor per_sample_weights_backward_autograd(const at::Tensor& grad_output,
                                                const at::Tensor& weight, const at::Tensor& indices,
                                                const OptionalTensor& offsets,
                                                const OptionalTensor& positions, int64_t mode,
                                                bool include_last_offset,
                                                OptionalSymInt padding_idx) {
  if (needs_decomposition({&grad_output, &weight})) {
    const OptionalTensor none;
    const BagArguments arguments{indices, offsets, none, include_last_offset};
    check_bag_gradient(grad_output, positions, arguments, mode);
    check_weight_of_gradient(grad_output, weight);
    return decompose_per_sample_weights_backward(grad_output, weight, arguments, positions, mode,
                                                 wrap_padding_idx(padding_idx, weight.sym_size(0)));
  }
  const SavedBags bags{indices, offsets, positions, mode, include_last_offset, padding_idx};
  if (wants_gradient(grad_output) || wants_gradient(weight)) {
    return PerSampleWeightsBackwardFunction::apply(grad_output, weight, bags);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return bags.weights(grad_output, weight);
}

// The values are weights times rows of grad_output, which ATen differentiates as often as one
// likes; the kernel serves where nobody will.
at::Tensor sparse_backward_autograd(const at::Tensor& grad_output, const at::Tensor& indices,
                                    const OptionalTensor& offsets, c10::SymInt num_weights,
                                    bool scale_grad_by_freq, int64_t mode,
                                    const OptionalTensor& per_sample_weights,
                                    bool include_last_offset, OptionalSymInt padding_idx) {
  if (wants_gradient(grad_output) || wants_gradient(per_sample_weights) ||
      needs_decomposition({&grad_output, pointer(per_sample_weights)})) {
    const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
    check_bag_gradient(grad_output, std::nullopt, bags, mode);
    return decompose_sparse_values(grad_output, bags, num_weights, scale_grad_by_freq, mode,
                                   wrap_padding_idx(padding_idx, num_weights));
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return myemb::embedding_bag_sparse_backward(grad_output, indices, offsets, num_weights,
                                              scale_grad_by_freq, mode, per_sample_weights,
                                              include_last_offset, padding_idx);
}

}  // namespace

at::Tensor embedding_bag_dense_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                                        const OptionalTensor& offsets,
                                        const OptionalTensor& positions, c10::SymInt num_weights,
                                        bool scale_grad_by_freq, int64_t mode,
                                        const OptionalTensor& per_sample_weights,
                                        bool include_last_offset, OptionalSymInt padding_idx) {
  static const auto op =
      typed_op<decltype(embedding_bag_dense_backward)>("myemb::embedding_bag_dense_backward");
  return op.call(grad_output, indices, offsets, positions, std::move(num_weights),
                 scale_grad_by_freq, mode, per_sample_weights, include_last_offset,
                 std::move(padding_idx));
}

at::Tensor embedding_bag_sparse_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                                         const OptionalTensor& offsets, c10::SymInt num_weights,
                                         bool scale_grad_by_freq, int64_t mode,
                                         const OptionalTensor& per_sample_weights,
                                         bool include_last_offset, OptionalSymInt padding_idx) {
  static const auto op =
      typed_op<decltype(embedding_bag_sparse_backward)>("myemb::embedding_bag_sparse_backward");
  return op.call(grad_output, indices, offsets, std::move(num_weights), scale_grad_by_freq, mode,
                 per_sample_weights, include_last_offset, std::move(padding_idx));
}

at::Tensor embedding_bag_per_sample_weights_backward(
    const at::Tensor& grad_output, const at::Tensor& weight, const at::Tensor& indices,
    const OptionalTensor& offsets, const OptionalTensor& positions, int64_t mode,
    bool include_last_offset, OptionalSymInt padding_idx) {
  static const auto op = typed_op<decltype(embedding_bag_per_sample_weights_backward)>(
      "myemb::embedding_bag_per_sample_weights_backward");
  return op.call(grad_output, weight, indices, offsets, positions, mode, include_last_offset,
                 std::move(padding_idx));
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) {
  m.impl("embedding_bag_dense_backward", &dense_backward_meta);
  m.impl("embedding_bag_sparse_backward", &sparse_backward_meta);
  m.impl("embedding_bag_per_sample_weights_backward", &per_sample_weights_backward_meta);
}

TORCH_LIBRARY_IMPL(myemb, Autograd, m) {
  m.impl("embedding_bag_dense_backward", &dense_backward_autograd);
  m.impl("embedding_bag_sparse_backward", &sparse_backward_autograd);
  m.impl("embedding_bag_per_sample_weights_backward", &per_sample_weights_backward_autograd);
}

}  // namespace myemb
