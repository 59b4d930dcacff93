// embedding_bag: what it is for autograd, fake tensors and transforms. Its gradients are ops
// themselves, in embedding_bag_backward.cpp.

#include <myemb/ops.h>
#include <ops/autocast.h>
#include <ops/checks.h>
#include <ops/decompositions.h>
#include <ops/fused_table.h>
#include <ops/node.h>
#include <ops/sparse_rows.h>
#include <ops/typed_op.h>
#include <ops/types.h>

#include <torch/library.h>

namespace myemb {
namespace {

at::Tensor embedding_bag_meta(const at::Tensor& weight, const at::Tensor& indices,
                              const OptionalTensor& offsets, bool scale_grad_by_freq, int64_t mode,
                              bool sparse, const OptionalTensor& per_sample_weights,
                              bool include_last_offset, OptionalSymInt padding_idx) {
  const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
  check_embedding_bag_arguments(weight, bags, mode, scale_grad_by_freq, sparse);
  wrap_padding_idx(padding_idx, weight.sym_size(0));
  return weight.new_empty_symint({bags.num_bags(), weight.sym_size(1)});
}

std::tuple<at::Tensor, at::Tensor> embedding_bag_max_meta(const at::Tensor& weight,
                                                          const at::Tensor& indices,
                                                          const OptionalTensor& offsets,
                                                          const OptionalTensor& per_sample_weights,
                                                          bool include_last_offset,
                                                          OptionalSymInt padding_idx) {
  const int64_t mode = static_cast<int64_t>(BagMode::Max);
  const at::Tensor out = embedding_bag_meta(weight, indices, offsets, false, mode, false,
                                            per_sample_weights, include_last_offset, padding_idx);
  return {out, at::empty_like(out, out.options().dtype(at::kLong))};
}

const auto& embedding_bag_op() {
  static const auto op = typed_op<decltype(embedding_bag)>("myemb::embedding_bag");
  return op;
}

const auto& embedding_bag_max_op() {
  static const auto op = typed_op<decltype(embedding_bag_max)>("myemb::embedding_bag_max");
  return op;
}

struct EmbeddingBagCall {
  static constexpr auto kName = "EmbeddingBagBackward";
  static constexpr size_t kInputs = 2;  // weight, per_sample_weights

  // Undefined unless per_sample_weights want a gradient: what is saved must not change in place.
  at::Tensor weight;
  at::Tensor indices;
  OptionalTensor offsets;
  OptionalTensor per_sample_weights;
  OptionalTensor positions;
  c10::SymInt num_weights;
  OptionalSymInt padding_idx;
  int64_t mode;
  bool scale_grad_by_freq;
  bool sparse;
  bool include_last_offset;
  std::shared_ptr<FusedTable> fused;  // or null

  auto tensors() { return std::tie(weight, indices, offsets, per_sample_weights, positions); }
  auto options() {
    return std::tie(num_weights, padding_idx, mode, scale_grad_by_freq, sparse,
                    include_last_offset);
  }

  std::array<at::Tensor, kInputs> gradients(const at::Tensor& grad,
                                            const WantedGradients<kInputs>& wanted) const {
    std::array<at::Tensor, kInputs> found;
    if (wanted[0] && fused && fused->takes_gradient()) {
      fused->add({grad,
                  {indices, offsets, positions, per_sample_weights, scale_grad_by_freq, mode,
                   include_last_offset, padding_idx}});
    } else if (wanted[0]) {
      found[0] = grad_weight(grad);
    }
    if (wanted[1] && per_sample_weights) {
      found[1] =
          myemb::embedding_bag_per_sample_weights_backward(
              grad, weight, indices, offsets, positions, mode, include_last_offset, padding_idx)
              .to(per_sample_weights->scalar_type());
    }
    return found;
  }

  at::Tensor grad_weight(const at::Tensor& grad) const {
    if (!sparse) {
      return myemb::embedding_bag_dense_backward(grad, indices, offsets, positions, num_weights,
                                                 scale_grad_by_freq, mode, per_sample_weights,
                                                 include_last_offset, padding_idx);
    }
    const at::Tensor values = myemb::embedding_bag_sparse_backward(
        grad, indices, offsets, num_weights, scale_grad_by_freq, mode, per_sample_weights,
        include_last_offset, padding_idx);
    return sparse_rows(indices.reshape({-1}).to(at::kLong), values, num_weights,
                       wrap_padding_idx(padding_idx, num_weights));
  }
};

at::Tensor embedding_bag_autograd(c10::DispatchKeySet keys, const at::Tensor& weight,
                                  const at::Tensor& indices, const OptionalTensor& offsets,
                                  bool scale_grad_by_freq, int64_t mode, bool sparse,
                                  const OptionalTensor& per_sample_weights,
                                  bool include_last_offset, OptionalSymInt padding_idx) {
  if (needs_decomposition({&weight, pointer(per_sample_weights)})) {
    const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
    check_embedding_bag_arguments(weight, bags, mode, scale_grad_by_freq, sparse);
    return decompose_embedding_bag(
        weight, bags, mode, wrap_padding_idx(padding_idx, weight.sym_size(0)), scale_grad_by_freq);
  }
  const bool weights_want_gradient = wants_gradient(per_sample_weights);
  const bool with_grad = wants_gradient(weight) || weights_want_gradient;
  at::Tensor out, positions;
  if (with_grad && is_mode(mode, BagMode::Max)) {
    check_max_options(scale_grad_by_freq, sparse);
    // Another op, and so a call of its own: its kernels may not be under the same keys.
    const at::AutoDispatchBelowADInplaceOrView below;
    std::tie(out, positions) = embedding_bag_max_op().call(
        weight, indices, offsets, per_sample_weights, include_last_offset, padding_idx);
  } else {
    out = below_autograd(embedding_bag_op(), keys, weight, indices, offsets, scale_grad_by_freq,
                         mode, sparse, per_sample_weights, include_last_offset, padding_idx);
  }
  if (!with_grad) return out;
  return with_gradient(
      std::move(out),
      EmbeddingBagCall{weights_want_gradient ? weight : at::Tensor(), indices, offsets,
                       per_sample_weights, if_defined(positions), weight.sym_size(0),
                       std::move(padding_idx), mode, scale_grad_by_freq,
                       sparse && !is_transformed(), include_last_offset, FusedTable::of(weight)},
      weight, per_sample_weights);
}

// The maxima of a call, differentiable: the positions come from the kernel, the values from a
// gather.
std::tuple<at::Tensor, at::Tensor> embedding_bag_max_autograd(
    c10::DispatchKeySet keys, const at::Tensor& weight, const at::Tensor& indices,
    const OptionalTensor& offsets, const OptionalTensor& per_sample_weights,
    bool include_last_offset, OptionalSymInt padding_idx) {
  auto [out, positions] = below_autograd(embedding_bag_max_op(), keys, weight, indices, offsets,
                                         per_sample_weights, include_last_offset, padding_idx);
  if (wants_gradient(weight) || wants_gradient(per_sample_weights) ||
      needs_decomposition({&weight, pointer(per_sample_weights)})) {
    out = gather_positions(weight, indices, positions, per_sample_weights);
  }
  return {out, positions};
}

at::Tensor checked_offsets_meta(const at::Tensor& offsets, c10::SymInt /*num_lookups*/,
                                bool /*include_last_offset*/) {
  check_offsets_arguments(offsets);
  return offsets.new_empty_symint(offsets.sym_sizes(), offsets.options().dtype(at::kLong));
}

}  // namespace

void check_embedding_bag(const at::Tensor& weight, const at::Tensor& indices,
                         const OptionalTensor& offsets, int64_t mode, bool scale_grad_by_freq,
                         bool sparse, const OptionalTensor& per_sample_weights,
                         bool include_last_offset, OptionalSymInt padding_idx) {
  const OptionalTensor weights = weights_under_autocast(weight, per_sample_weights);
  const BagArguments bags{indices, offsets, weights, include_last_offset};
  check_embedding_bag_arguments(weight, bags, mode, scale_grad_by_freq, sparse);
  wrap_padding_idx(padding_idx, weight.sym_size(0));
  if (offsets) checked_offsets(*offsets, indices.sym_numel(), include_last_offset);
}

at::Tensor checked_offsets(const at::Tensor& offsets, c10::SymInt num_lookups,
                           bool include_last_offset) {
  static const auto op = typed_op<decltype(checked_offsets)>("myemb::checked_offsets");
  return op.call(offsets, std::move(num_lookups), include_last_offset);
}

at::Tensor embedding_bag(const at::Tensor& weight, const at::Tensor& indices,
                         const OptionalTensor& offsets, bool scale_grad_by_freq, int64_t mode,
                         bool sparse, const OptionalTensor& per_sample_weights,
                         bool include_last_offset, OptionalSymInt padding_idx) {
  return embedding_bag_op().call(weight, indices, offsets, scale_grad_by_freq, mode, sparse,
                                 per_sample_weights, include_last_offset, std::move(padding_idx));
}

std::tuple<at::Tensor, at::Tensor> embedding_bag_max(const at::Tensor& weight,
                                                     const at::Tensor& indices,
                                                     const OptionalTensor& offsets,
                                                     const OptionalTensor& per_sample_weights,
                                                     bool include_last_offset,
                                                     OptionalSymInt padding_idx) {
  return embedding_bag_max_op().call(weight, indices, offsets, per_sample_weights,
                                     include_last_offset, std::move(padding_idx));
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) {
  m.impl("embedding_bag", &embedding_bag_meta);
  m.impl("embedding_bag_max", &embedding_bag_max_meta);
  m.impl("checked_offsets", &checked_offsets_meta);
}

TORCH_LIBRARY_IMPL(myemb, Autograd, m) {
  m.impl("embedding_bag", &embedding_bag_autograd);
  m.impl("embedding_bag_max", &embedding_bag_max_autograd);
}

}  // namespace myemb
