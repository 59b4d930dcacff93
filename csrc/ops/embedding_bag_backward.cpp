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
#include <ops/node.h>
#include <ops/sparse_rows.h>
#include <ops/typed_op.h>
#include <ops/types.h>

#include <ATen/TensorOperators.h>
#include <torch/library.h>

namespace myemb {
namespace {

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

const auto& dense_backward_op() {
  static const auto op =
      typed_op<decltype(embedding_bag_dense_backward)>("myemb::embedding_bag_dense_backward");
  return op;
}

const auto& sparse_backward_op() {
  static const auto op =
      typed_op<decltype(embedding_bag_sparse_backward)>("myemb::embedding_bag_sparse_backward");
  return op;
}

const auto& per_sample_weights_backward_op() {
  static const auto op = typed_op<decltype(embedding_bag_per_sample_weights_backward)>(
      "myemb::embedding_bag_per_sample_weights_backward");
  return op;
}

struct DenseBackwardCall {
  static constexpr auto kName = "EmbeddingBagDenseBackwardBackward";
  static constexpr size_t kInputs = 2;  // grad_output, per_sample_weights

  SavedBags bags;
  // Undefined unless per_sample_weights want a gradient: what is saved must not change in place.
  at::Tensor grad_output;
  OptionalTensor per_sample_weights;
  c10::SymInt num_weights;
  bool scale_grad_by_freq;

  auto tensors() {
    return std::tie(bags.indices, bags.offsets, bags.positions, grad_output, per_sample_weights);
  }
  auto options() {
    return std::tie(bags.mode, bags.include_last_offset, bags.padding_idx, num_weights,
                    scale_grad_by_freq);
  }

  std::array<at::Tensor, kInputs> gradients(const at::Tensor& table,
                                            const WantedGradients<kInputs>& wanted) const {
    OptionalTensor weights = per_sample_weights, frequency;
    if (scale_grad_by_freq) {
      frequency = inverse_frequency(bags.indices.reshape({-1}), num_weights, table.scalar_type())
                      .reshape_symint(bags.indices.sym_sizes());
    }
    std::array<at::Tensor, kInputs> found;
    if (wanted[1] && weights) {
      at::Tensor grad_weights = bags.weights(grad_output, table);
      if (frequency) grad_weights = grad_weights * *frequency;
      found[1] = grad_weights.to(weights->scalar_type());
    }
    if (frequency) weights = weights ? *weights * *frequency : *frequency;
    if (wanted[0]) found[0] = bags.forward(table, weights);
    return found;
  }
};

struct PerSampleWeightsBackwardCall {
  static constexpr auto kName = "EmbeddingBagPerSampleWeightsBackwardBackward";
  static constexpr size_t kInputs = 2;  // grad_output, weight

  SavedBags bags;
  at::Tensor grad_output;
  at::Tensor weight;

  auto tensors() {
    return std::tie(bags.indices, bags.offsets, bags.positions, grad_output, weight);
  }
  auto options() { return std::tie(bags.mode, bags.include_last_offset, bags.padding_idx); }

  std::array<at::Tensor, kInputs> gradients(const at::Tensor& grad,
                                            const WantedGradients<kInputs>& wanted) const {
    std::array<at::Tensor, kInputs> found;
    if (wanted[0]) found[0] = bags.forward(weight, grad);
    if (wanted[1]) found[1] = bags.dense(grad_output, weight.sym_size(0), grad);
    return found;
  }
};

at::Tensor dense_backward_autograd(c10::DispatchKeySet keys, const at::Tensor& grad_output,
                                   const at::Tensor& indices, const OptionalTensor& offsets,
                                   const OptionalTensor& positions, c10::SymInt num_weights,
                                   bool scale_grad_by_freq, int64_t mode,
                                   const OptionalTensor& per_sample_weights,
                                   bool include_last_offset, OptionalSymInt padding_idx) {
  if (needs_decomposition({&grad_output, pointer(per_sample_weights)})) {
    const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
    check_bag_gradient(grad_output, positions, bags, mode);
    return decompose_bag_dense_backward(grad_output, bags, positions, num_weights,
                                        scale_grad_by_freq, mode,
                                        wrap_padding_idx(padding_idx, num_weights));
  }
  const bool weights_want_gradient = wants_gradient(per_sample_weights);
  const bool with_grad = wants_gradient(grad_output) || weights_want_gradient;
  at::Tensor out = below_autograd(dense_backward_op(), keys, grad_output, indices, offsets,
                                  positions, num_weights, scale_grad_by_freq, mode,
                                  per_sample_weights, include_last_offset, padding_idx);
  if (!with_grad) return out;
  return with_gradient(std::move(out),
                       DenseBackwardCall{{indices, offsets, positions, mode, include_last_offset,
                                          std::move(padding_idx)},
                                         weights_want_gradient ? grad_output : at::Tensor(),
                                         per_sample_weights,
                                         std::move(num_weights),
                                         scale_grad_by_freq},
                       grad_output, per_sample_weights);
}

at::Tensor per_sample_weights_backward_autograd(
    c10::DispatchKeySet keys, const at::Tensor& grad_output, const at::Tensor& weight,
    const at::Tensor& indices, const OptionalTensor& offsets, const OptionalTensor& positions,
    int64_t mode, bool include_last_offset, OptionalSymInt padding_idx) {
  if (needs_decomposition({&grad_output, &weight})) {
    const OptionalTensor none;
    const BagArguments arguments{indices, offsets, none, include_last_offset};
    check_bag_gradient(grad_output, positions, arguments, mode);
    check_weight_of_gradient(grad_output, weight);
    return decompose_per_sample_weights_backward(grad_output, weight, arguments, positions, mode,
                                                 wrap_padding_idx(padding_idx, weight.sym_size(0)));
  }
  const bool with_grad = wants_gradient(grad_output) || wants_gradient(weight);
  at::Tensor out =
      below_autograd(per_sample_weights_backward_op(), keys, grad_output, weight, indices, offsets,
                     positions, mode, include_last_offset, padding_idx);
  if (!with_grad) return out;
  return with_gradient(std::move(out),
                       PerSampleWeightsBackwardCall{{indices, offsets, positions, mode,
                                                     include_last_offset, std::move(padding_idx)},
                                                    grad_output,
                                                    weight},
                       grad_output, weight);
}

// The values are weights times rows of grad_output, which ATen differentiates as often as one
// likes; the kernel serves where nobody will.
at::Tensor sparse_backward_autograd(c10::DispatchKeySet keys, const at::Tensor& grad_output,
                                    const at::Tensor& indices, const OptionalTensor& offsets,
                                    c10::SymInt num_weights, bool scale_grad_by_freq, int64_t mode,
                                    const OptionalTensor& per_sample_weights,
                                    bool include_last_offset, OptionalSymInt padding_idx) {
  if (wants_gradient(grad_output) || wants_gradient(per_sample_weights) ||
      needs_decomposition({&grad_output, pointer(per_sample_weights)})) {
    const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
    check_bag_gradient(grad_output, std::nullopt, bags, mode);
    return decompose_sparse_values(grad_output, bags, num_weights, scale_grad_by_freq, mode,
                                   wrap_padding_idx(padding_idx, num_weights));
  }
  return below_autograd(sparse_backward_op(), keys, grad_output, indices, offsets, num_weights,
                        scale_grad_by_freq, mode, per_sample_weights, include_last_offset,
                        padding_idx);
}

}  // namespace

at::Tensor embedding_bag_dense_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                                        const OptionalTensor& offsets,
                                        const OptionalTensor& positions, c10::SymInt num_weights,
                                        bool scale_grad_by_freq, int64_t mode,
                                        const OptionalTensor& per_sample_weights,
                                        bool include_last_offset, OptionalSymInt padding_idx) {
  return dense_backward_op().call(grad_output, indices, offsets, positions, std::move(num_weights),
                                  scale_grad_by_freq, mode, per_sample_weights, include_last_offset,
                                  std::move(padding_idx));
}

at::Tensor embedding_bag_sparse_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                                         const OptionalTensor& offsets, c10::SymInt num_weights,
                                         bool scale_grad_by_freq, int64_t mode,
                                         const OptionalTensor& per_sample_weights,
                                         bool include_last_offset, OptionalSymInt padding_idx) {
  return sparse_backward_op().call(grad_output, indices, offsets, std::move(num_weights),
                                   scale_grad_by_freq, mode, per_sample_weights,
                                   include_last_offset, std::move(padding_idx));
}

at::Tensor embedding_bag_per_sample_weights_backward(
    const at::Tensor& grad_output, const at::Tensor& weight, const at::Tensor& indices,
    const OptionalTensor& offsets, const OptionalTensor& positions, int64_t mode,
    bool include_last_offset, OptionalSymInt padding_idx) {
  return per_sample_weights_backward_op().call(grad_output, weight, indices, offsets, positions,
                                               mode, include_last_offset, std::move(padding_idx));
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
