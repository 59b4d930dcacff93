#include <myemb/functional.h>
#include <myemb/ops.h>
#include <nn/padding_idx.h>
#include <ops/saved.h>

#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <optional>
#include <variant>

namespace myemb::functional {
namespace {

int64_t bag_mode(const torch::nn::EmbeddingBagMode& mode) {
  if (std::holds_alternative<torch::enumtype::kSum>(mode))
    return static_cast<int64_t>(BagMode::Sum);
  if (std::holds_alternative<torch::enumtype::kMax>(mode))
    return static_cast<int64_t>(BagMode::Max);
  return static_cast<int64_t>(BagMode::Mean);
}

}  // namespace

at::Tensor embedding_renorm_(const at::Tensor& weight, const at::Tensor& input, double max_norm,
                             double norm_type) {
  const at::NoGradGuard no_grad;
  // Detached, so that a table which is no leaf is not rebased onto an operator without a
  // derivative; the version counter is shared, so that autograd still notices a table changed after
  // it was saved.
  at::Tensor table = weight.detach();
  myemb::embedding_renorm_(table, input, max_norm, norm_type);
  return weight;
}

at::Tensor embedding(const at::Tensor& input, const at::Tensor& weight,
                     const EmbeddingFuncOptions& options) {
  TORCH_CHECK(weight.dim() == 2, "'weight' must be 2-D");
  const int64_t padding_idx = wrap_padding_idx(options.padding_idx(), weight.size(0)).value_or(-1);
  if (options.max_norm()) {
    functional::embedding_renorm_(weight, input, *options.max_norm(), options.norm_type());
  }
  return myemb::embedding(weight, input, padding_idx, options.scale_grad_by_freq(),
                          options.sparse());
}

at::Tensor embedding_bag(const at::Tensor& input, const at::Tensor& weight,
                         const EmbeddingBagFuncOptions& options) {
  const auto offsets = if_defined(options.offsets());
  const auto per_sample_weights = if_defined(options.per_sample_weights());
  const int64_t mode = bag_mode(options.mode());
  const bool include_last_offset = options.include_last_offset() && input.dim() != 2;
  const std::optional<c10::SymInt> padding_idx = options.padding_idx();
  if (options.max_norm()) {
    check_embedding_bag(weight, input, offsets, mode, options.scale_grad_by_freq(),
                        options.sparse(), per_sample_weights, include_last_offset, padding_idx);
    functional::embedding_renorm_(weight, input, *options.max_norm(), options.norm_type());
  }
  return myemb::embedding_bag(weight, input, offsets, options.scale_grad_by_freq(), mode,
                              options.sparse(), per_sample_weights, include_last_offset,
                              padding_idx);
}

}  // namespace myemb::functional
