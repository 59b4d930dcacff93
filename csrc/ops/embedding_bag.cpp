// embedding_bag: what it is for autograd, fake tensors and transforms. Its gradients are ops
// themselves, in embedding_bag_backward.cpp.

#include <myemb/ops.h>
#include <ops/checks.h>
#include <ops/decompositions.h>
#include <ops/saved.h>
#include <ops/sparse_rows.h>
#include <ops/typed_op.h>
#include <ops/types.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace myemb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

// What backward needs of a call, as the context keeps it.
struct SavedCall {
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

  static SavedCall load(AutogradContext* ctx) {
    const variable_list tensors = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    return {tensors[0],
            tensors[1],
            if_defined(tensors[2]),
            if_defined(tensors[3]),
            if_defined(tensors[4]),
            data["num_weights"].toSymInt(),
            loaded(data["padding_idx"]),
            data["mode"].toInt(),
            data["scale_grad_by_freq"].toBool(),
            data["sparse"].toBool(),
            data["include_last_offset"].toBool()};
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

  at::Tensor grad_per_sample_weights(const at::Tensor& grad) const {
    return myemb::embedding_bag_per_sample_weights_backward(
        grad, weight, indices, offsets, positions, mode, include_last_offset, padding_idx);
  }
};

class EmbeddingBagFunction : public torch::autograd::Function<EmbeddingBagFunction> {
 public:
  static constexpr size_t kArguments = 9;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& weight,
                            const at::Tensor& indices, const OptionalTensor& offsets,
                            bool scale_grad_by_freq, int64_t mode, bool sparse,
                            const OptionalTensor& per_sample_weights, bool include_last_offset,
                            const OptionalSymInt& padding_idx) {
    const at::AutoDispatchBelowADInplaceOrView below;
    at::Tensor out, positions;
    if (is_mode(mode, BagMode::Max)) {
      check_max_options(scale_grad_by_freq, sparse);
      std::tie(out, positions) = myemb::embedding_bag_max(
          weight, indices, offsets, per_sample_weights, include_last_offset, padding_idx);
    } else {
      out = myemb::embedding_bag(weight, indices, offsets, scale_grad_by_freq, mode, sparse,
                                 per_sample_weights, include_last_offset, padding_idx);
    }
    const bool save_weight = per_sample_weights && per_sample_weights->requires_grad();
    ctx->save_for_backward({save_weight ? weight : at::Tensor(), indices, saved(offsets),
                            saved(per_sample_weights), positions});
    ctx->set_materialize_grads(false);
    auto& data = ctx->saved_data;
    data["num_weights"] = weight.sym_size(0);
    data["padding_idx"] = saved(padding_idx);
    data["mode"] = mode;
    data["scale_grad_by_freq"] = scale_grad_by_freq;
    data["sparse"] = sparse;
    data["include_last_offset"] = include_last_offset;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list gradients(kArguments);
    if (!grads[0].defined()) return gradients;
    const SavedCall call = SavedCall::load(ctx);
    // Edges count the tensors that were given: weight, indices, offsets, per_sample_weights.
    const size_t weights_edge = call.offsets ? 3 : 2;
    if (ctx->needs_input_grad(0)) gradients[0] = call.grad_weight(grads[0]);
    if (const auto& weights = call.per_sample_weights;
        weights && ctx->needs_input_grad(weights_edge)) {
      gradients[6] = call.grad_per_sample_weights(grads[0]).to(weights->scalar_type());
    }
    return gradients;
  }
};

at::Tensor embedding_bag_autograd(const at::Tensor& weight, const at::Tensor& indices,
                                  const OptionalTensor& offsets, bool scale_grad_by_freq,
                                  int64_t mode, bool sparse,
                                  const OptionalTensor& per_sample_weights,
                                  bool include_last_offset, OptionalSymInt padding_idx) {
  if (needs_decomposition({&weight, pointer(per_sample_weights)})) {
    const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
    check_embedding_bag_arguments(weight, bags, mode, scale_grad_by_freq, sparse);
    return decompose_embedding_bag(
        weight, bags, mode, wrap_padding_idx(padding_idx, weight.sym_size(0)), scale_grad_by_freq);
  }
  if (!wants_gradient(weight) && !wants_gradient(per_sample_weights)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return myemb::embedding_bag(weight, indices, offsets, scale_grad_by_freq, mode, sparse,
                                per_sample_weights, include_last_offset, padding_idx);
  }
  return EmbeddingBagFunction::apply(weight, indices, offsets, scale_grad_by_freq, mode, sparse,
                                     per_sample_weights, include_last_offset, padding_idx);
}

// The maxima of a call, differentiable: the positions come from the kernel, the values from a
// gather.
std::tuple<at::Tensor, at::Tensor> embedding_bag_max_autograd(
    const at::Tensor& weight, const at::Tensor& indices, const OptionalTensor& offsets,
    const OptionalTensor& per_sample_weights, bool include_last_offset,
    OptionalSymInt padding_idx) {
  at::Tensor out, positions;
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    std::tie(out, positions) = myemb::embedding_bag_max(
        weight, indices, offsets, per_sample_weights, include_last_offset, padding_idx);
  }
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
  const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
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
  static const auto op = typed_op<decltype(embedding_bag)>("myemb::embedding_bag");
  return op.call(weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights,
                 include_last_offset, std::move(padding_idx));
}

std::tuple<at::Tensor, at::Tensor> embedding_bag_max(const at::Tensor& weight,
                                                     const at::Tensor& indices,
                                                     const OptionalTensor& offsets,
                                                     const OptionalTensor& per_sample_weights,
                                                     bool include_last_offset,
                                                     OptionalSymInt padding_idx) {
  static const auto op = typed_op<decltype(embedding_bag_max)>("myemb::embedding_bag_max");
  return op.call(weight, indices, offsets, per_sample_weights, include_last_offset,
                 std::move(padding_idx));
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
