// embedding and its gradient: what they are for autograd, fake tensors and transforms.

#include <myemb/ops.h>
#include <ops/checks.h>
#include <ops/decompositions.h>
#include <ops/fused_table.h>
#include <ops/node.h>
#include <ops/sparse_rows.h>
#include <ops/typed_op.h>
#include <ops/types.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

namespace myemb {
namespace {

at::Tensor embedding_meta(const at::Tensor& weight, const at::Tensor& indices,
                          c10::SymInt /*padding_idx*/, bool /*scale_grad_by_freq*/,
                          bool /*sparse*/) {
  check_embedding(weight, indices);
  c10::SymDimVector shape(indices.sym_sizes().begin(), indices.sym_sizes().end());
  shape.push_back(weight.sym_size(1));
  return weight.new_empty_symint(shape);
}

at::Tensor embedding_dense_backward_meta(const at::Tensor& grad_output, const at::Tensor& indices,
                                         c10::SymInt num_weights, c10::SymInt /*padding_idx*/,
                                         bool /*scale_grad_by_freq*/) {
  check_embedding_dense_backward(grad_output, indices);
  return grad_output.new_empty_symint({num_weights, grad_output.sym_size(-1)});
}

// An entry for each lookup but padding, in input order. Differentiable in grad, which is why ATen
// builds it.
at::Tensor sparse_gradient(const at::Tensor& grad_output, const at::Tensor& indices,
                           const c10::SymInt& num_weights, const c10::SymInt& padding_idx,
                           bool scale_grad_by_freq) {
  at::Tensor lookups = indices.reshape({-1}).to(at::kLong);
  at::Tensor values = grad_output.reshape_symint({lookups.sym_size(0), grad_output.sym_size(-1)});
  if (scale_grad_by_freq) {
    const at::Tensor scale = inverse_frequency(lookups, num_weights, values.scalar_type());
    values = (values * scale).to(values.scalar_type());
  }
  return sparse_rows(lookups, values, num_weights, padding_idx);
}

const auto& embedding_op() {
  static const auto op = typed_op<decltype(embedding)>("myemb::embedding");
  return op;
}

const auto& embedding_dense_backward_op() {
  static const auto op =
      typed_op<decltype(embedding_dense_backward)>("myemb::embedding_dense_backward");
  return op;
}

struct EmbeddingCall {
  static constexpr auto kName = "EmbeddingBackward";
  static constexpr size_t kInputs = 1;

  at::Tensor indices;
  c10::SymInt num_weights;
  c10::SymInt padding_idx;
  bool scale_grad_by_freq;
  bool sparse;
  std::shared_ptr<FusedTable> fused;  // or null

  auto tensors() { return std::tie(indices); }
  auto options() { return std::tie(num_weights, padding_idx, scale_grad_by_freq, sparse); }

  std::array<at::Tensor, kInputs> gradients(const at::Tensor& grad,
                                            const WantedGradients<kInputs>& /*wanted*/) const {
    if (fused && fused->takes_gradient()) {
      fused->add(lookup_gradient(grad));
      return {};
    }
    if (sparse) {
      return {sparse_gradient(grad, indices, num_weights, padding_idx, scale_grad_by_freq)};
    }
    return {myemb::embedding_dense_backward(grad, indices, num_weights, padding_idx,
                                            scale_grad_by_freq)};
  }

  // Lookups as bags of one.
  LookupGradient lookup_gradient(const at::Tensor& grad) const {
    return {grad.reshape_symint({indices.sym_numel(), grad.sym_size(-1)}),
            {.indices = indices.reshape({-1, 1}),
             .scale_grad_by_freq = scale_grad_by_freq,
             .padding_idx = padding_idx < 0 ? OptionalSymInt() : padding_idx}};
  }
};

at::Tensor embedding_autograd(c10::DispatchKeySet keys, const at::Tensor& weight,
                              const at::Tensor& indices, c10::SymInt padding_idx,
                              bool scale_grad_by_freq, bool sparse) {
  if (needs_decomposition({&weight})) {
    check_embedding(weight, indices);
    return decompose_embedding(weight, indices, padding_idx, scale_grad_by_freq);
  }
  const bool with_grad = wants_gradient(weight);
  TORCH_CHECK_NOT_IMPLEMENTED(
      !with_grad || !weight.is_complex(),
      "embedding does not support automatic differentiation for outputs with complex dtype.");
  at::Tensor out = below_autograd(embedding_op(), keys, weight, indices, padding_idx,
                                  scale_grad_by_freq, sparse);
  if (!with_grad) return out;
  return with_gradient(
      std::move(out),
      EmbeddingCall{indices, weight.sym_size(0), std::move(padding_idx), scale_grad_by_freq,
                    sparse && !is_transformed(), FusedTable::of(weight)},
      weight);
}

// The gradient is linear in grad_output: lookup i adds grad_output[i] / count to its row. Its own
// gradient is therefore the lookup, weighted in the same way and zero at padding: an embedding_bag
// of bags of one.
struct EmbeddingDenseBackwardCall {
  static constexpr auto kName = "EmbeddingDenseBackwardBackward";
  static constexpr size_t kInputs = 1;

  at::Tensor indices;
  c10::SymInt num_weights;
  c10::SymInt padding_idx;
  bool scale_grad_by_freq;

  auto tensors() { return std::tie(indices); }
  auto options() { return std::tie(num_weights, padding_idx, scale_grad_by_freq); }

  std::array<at::Tensor, kInputs> gradients(const at::Tensor& grad,
                                            const WantedGradients<kInputs>& /*wanted*/) const {
    const at::Tensor lookups = indices.reshape({-1, 1});
    OptionalTensor scale;
    if (scale_grad_by_freq) {
      scale = inverse_frequency(lookups.squeeze(1), num_weights, grad.scalar_type());
    }
    const bool padded = padding_idx.sym_ge(0).guard_bool(__FILE__, __LINE__);
    const at::Tensor rows =
        myemb::embedding_bag(grad, lookups, std::nullopt, false, 0, false, scale, false,
                             padded ? std::optional(padding_idx) : std::nullopt);
    c10::SymDimVector shape(indices.sym_sizes().begin(), indices.sym_sizes().end());
    shape.push_back(grad.sym_size(1));
    return {rows.reshape_symint(shape)};
  }
};

at::Tensor embedding_dense_backward_autograd(c10::DispatchKeySet keys,
                                             const at::Tensor& grad_output,
                                             const at::Tensor& indices, c10::SymInt num_weights,
                                             c10::SymInt padding_idx, bool scale_grad_by_freq) {
  if (needs_decomposition({&grad_output})) {
    check_embedding_dense_backward(grad_output, indices);
    return decompose_embedding_dense_backward(grad_output, indices, num_weights, padding_idx,
                                              scale_grad_by_freq);
  }
  const bool with_grad = wants_gradient(grad_output);
  at::Tensor out = below_autograd(embedding_dense_backward_op(), keys, grad_output, indices,
                                  num_weights, padding_idx, scale_grad_by_freq);
  if (!with_grad) return out;
  return with_gradient(std::move(out),
                       EmbeddingDenseBackwardCall{indices, std::move(num_weights),
                                                  std::move(padding_idx), scale_grad_by_freq},
                       grad_output);
}

}  // namespace

// The count is itself a gradient: that of a table of one column, each lookup adding one.
at::Tensor inverse_frequency(const at::Tensor& lookups, const c10::SymInt& num_weights,
                             at::ScalarType type) {
  const auto options = lookups.options().dtype(accumulator_type(type));
  const at::Tensor ones = at::ones_symint({lookups.sym_size(0), 1}, options);
  const at::Tensor counts = myemb::embedding_dense_backward(ones, lookups, num_weights);
  return myemb::embedding(counts, lookups).reciprocal();
}

at::Tensor sparse_rows(const at::Tensor& lookups, const at::Tensor& values,
                       const c10::SymInt& num_weights, const c10::SymInt& padding_idx) {
  at::Tensor rows = lookups, entries = values;
  if (padding_idx.sym_ge(0).guard_bool(__FILE__, __LINE__)) {
    const at::Tensor kept = lookups.ne(at::Scalar(padding_idx)).nonzero().squeeze(1);
    rows = rows.index_select(0, kept);
    entries = entries.index_select(0, kept);
  }
  return at::_sparse_coo_tensor_unsafe_symint(rows.unsqueeze(0), entries,
                                              {num_weights, values.sym_size(1)},
                                              values.options().layout(at::kSparse));
}

at::Tensor embedding(const at::Tensor& weight, const at::Tensor& indices, c10::SymInt padding_idx,
                     bool scale_grad_by_freq, bool sparse) {
  return embedding_op().call(weight, indices, std::move(padding_idx), scale_grad_by_freq, sparse);
}

at::Tensor embedding_dense_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                                    c10::SymInt num_weights, c10::SymInt padding_idx,
                                    bool scale_grad_by_freq) {
  return embedding_dense_backward_op().call(grad_output, indices, std::move(num_weights),
                                            std::move(padding_idx), scale_grad_by_freq);
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) {
  m.impl("embedding", &embedding_meta);
  m.impl("embedding_dense_backward", &embedding_dense_backward_meta);
}

TORCH_LIBRARY_IMPL(myemb, Autograd, m) {
  m.impl("embedding", &embedding_autograd);
  m.impl("embedding_dense_backward", &embedding_dense_backward_autograd);
}

}  // namespace myemb
