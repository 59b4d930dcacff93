// embedding_bag: what it is for autograd, fake tensors and transforms. Its gradients are ops themselves, in
// embedding_bag_backward.cpp.

#include <cpu/bags.h>
#include <myemb/ops.h>
#include <ops/checks.h>
#include <ops/decompositions.h>
#include <ops/sparse_rows.h>
#include <ops/typed_op.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace myemb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalSymInt = std::optional<c10::SymInt>;

bool is_max(int64_t mode) { return mode == static_cast<int64_t>(BagMode::Max); }

OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

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
  at::Tensor weight;  // only where per_sample_weights want a gradient: saving it forbids in-place changes
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
    const variable_list saved = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    return {saved[0],
            saved[1],
            optional(saved[2]),
            optional(saved[3]),
            optional(saved[4]),
            data["num_weights"].toSymInt(),
            data["padding_idx"].isNone() ? std::nullopt : OptionalSymInt(data["padding_idx"].toSymInt()),
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
    const at::Tensor values =
        myemb::embedding_bag_sparse_backward(grad, indices, offsets, num_weights, scale_grad_by_freq, mode,
                                      per_sample_weights, include_last_offset, padding_idx);
    return sparse_rows(indices.reshape({-1}).to(at::kLong), values, num_weights,
                       wrap_padding_idx(padding_idx, num_weights));
  }

  at::Tensor grad_per_sample_weights(const at::Tensor& grad) const {
    return myemb::embedding_bag_per_sample_weights_backward(grad, weight, indices, offsets, positions, mode,
                                                     include_last_offset, padding_idx)
        .to(per_sample_weights->scalar_type());
  }
};

class EmbeddingBagFunction : public torch::autograd::Function<EmbeddingBagFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& weight, const at::Tensor& indices,
                            const OptionalTensor& offsets, bool scale_grad_by_freq, int64_t mode,
                            bool sparse, const OptionalTensor& per_sample_weights,
                            bool include_last_offset, const OptionalSymInt& padding_idx) {
    const at::AutoDispatchBelowADInplaceOrView below;
    at::Tensor out, positions;
    if (is_max(mode)) {
      TORCH_CHECK_VALUE(!scale_grad_by_freq,
                        "max mode does not support scaling the gradient by the frequency");
      TORCH_CHECK_VALUE(!sparse, "max mode does not support sparse weights");
      std::tie(out, positions) = myemb::embedding_bag_max(weight, indices, offsets, per_sample_weights,
                                                   include_last_offset, padding_idx);
    } else {
      out = myemb::embedding_bag(weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights,
                          include_last_offset, padding_idx);
    }
    const bool weights_want_gradient = per_sample_weights && per_sample_weights->requires_grad();
    ctx->save_for_backward({weights_want_gradient ? weight : at::Tensor(), indices,
                            offsets.value_or(at::Tensor()), per_sample_weights.value_or(at::Tensor()),
                            positions});
    auto& data = ctx->saved_data;
    data["num_weights"] = weight.sym_size(0);
    data["padding_idx"] = padding_idx ? c10::IValue(*padding_idx) : c10::IValue();
    data["mode"] = mode;
    data["scale_grad_by_freq"] = scale_grad_by_freq;
    data["sparse"] = sparse;
    data["include_last_offset"] = include_last_offset;
    data["weight_wants_gradient"] = weight.requires_grad();
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const SavedCall call = SavedCall::load(ctx);
    at::Tensor grad_weight, grad_per_sample_weights;
    if (ctx->saved_data["weight_wants_gradient"].toBool()) grad_weight = call.grad_weight(grads[0]);
    if (call.weight.defined()) grad_per_sample_weights = call.grad_per_sample_weights(grads[0]);
    return {grad_weight, {}, {}, {}, {}, {}, grad_per_sample_weights, {}, {}};
  }
};

at::Tensor embedding_bag_autograd(const at::Tensor& weight, const at::Tensor& indices,
                                  const OptionalTensor& offsets, bool scale_grad_by_freq, int64_t mode,
                                  bool sparse, const OptionalTensor& per_sample_weights,
                                  bool include_last_offset, OptionalSymInt padding_idx) {
  const at::Tensor none;
  if (needs_decomposition({&weight, per_sample_weights ? &*per_sample_weights : &none})) {
    const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
    check_embedding_bag_arguments(weight, bags, mode, scale_grad_by_freq, sparse);
    return decompose_embedding_bag(weight, bags, mode, wrap_padding_idx(padding_idx, weight.sym_size(0)),
                                   scale_grad_by_freq);
  }
  const bool weights_want_gradient = per_sample_weights && per_sample_weights->requires_grad();
  if (!at::GradMode::is_enabled() || !(weight.requires_grad() || weights_want_gradient)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return myemb::embedding_bag(weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights,
                         include_last_offset, padding_idx);
  }
  return EmbeddingBagFunction::apply(weight, indices, offsets, scale_grad_by_freq, mode, sparse,
                                     per_sample_weights, include_last_offset, padding_idx);
}

// The maxima of a call, differentiable: the positions come from the kernel, the values from a gather.
std::tuple<at::Tensor, at::Tensor> embedding_bag_max_autograd(const at::Tensor& weight,
                                                              const at::Tensor& indices,
                                                              const OptionalTensor& offsets,
                                                              const OptionalTensor& per_sample_weights,
                                                              bool include_last_offset,
                                                              OptionalSymInt padding_idx) {
  at::Tensor out, positions;
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    std::tie(out, positions) = myemb::embedding_bag_max(weight, indices, offsets, per_sample_weights,
                                                 include_last_offset, padding_idx);
  }
  const bool weights_want_gradient = per_sample_weights && per_sample_weights->requires_grad();
  if (at::GradMode::is_enabled() && (weight.requires_grad() || weights_want_gradient)) {
    out = gather_positions(weight, indices, positions, per_sample_weights);
  }
  return {out, positions};
}

// A real tensor of ours to read: not a fake one, nor one that a transform or subclass wraps.
bool has_readable_values(const at::Tensor& tensor) {
  return tensor.device().is_cpu() &&
         !tensor.key_set().has_any(c10::DispatchKeySet(
             {c10::DispatchKey::Python, c10::DispatchKey::FuncTorchBatched,
              c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Functionalize}));
}

}  // namespace

void check_embedding_bag(const at::Tensor& weight, const at::Tensor& indices, const OptionalTensor& offsets,
                         int64_t mode, bool scale_grad_by_freq, bool sparse,
                         const OptionalTensor& per_sample_weights, bool include_last_offset,
                         OptionalSymInt padding_idx) {
  const BagArguments bags{indices, offsets, per_sample_weights, include_last_offset};
  check_embedding_bag_arguments(weight, bags, mode, scale_grad_by_freq, sparse);
  wrap_padding_idx(padding_idx, weight.sym_size(0));
  if (!offsets || !has_readable_values(*offsets)) return;
  const at::Tensor starts = offsets->to(at::kLong).contiguous();
  check_offsets(starts.const_data_ptr<int64_t>(), starts.numel(), indices.numel(), include_last_offset);
}

at::Tensor embedding_bag(const at::Tensor& weight, const at::Tensor& indices, const OptionalTensor& offsets,
                         bool scale_grad_by_freq, int64_t mode, bool sparse,
                         const OptionalTensor& per_sample_weights, bool include_last_offset,
                         OptionalSymInt padding_idx) {
  static const auto op = typed_op<decltype(embedding_bag)>("myemb::embedding_bag");
  return op.call(weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights,
                 include_last_offset, std::move(padding_idx));
}

std::tuple<at::Tensor, at::Tensor> embedding_bag_max(const at::Tensor& weight, const at::Tensor& indices,
                                                     const OptionalTensor& offsets,
                                                     const OptionalTensor& per_sample_weights,
                                                     bool include_last_offset, OptionalSymInt padding_idx) {
  static const auto op = typed_op<decltype(embedding_bag_max)>("myemb::embedding_bag_max");
  return op.call(weight, indices, offsets, per_sample_weights, include_last_offset, std::move(padding_idx));
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) {
  m.impl("embedding_bag", &embedding_bag_meta);
  m.impl("embedding_bag_max", &embedding_bag_max_meta);
}

TORCH_LIBRARY_IMPL(myemb, Autograd, m) {
  m.impl("embedding_bag", &embedding_bag_autograd);
  m.impl("embedding_bag_max", &embedding_bag_max_autograd);
}

}  // namespace myemb
