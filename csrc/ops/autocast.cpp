#include <ops/autocast.h>

#include <myemb/ops.h>
#include <ops/tables.h>
#include <ops/types.h>

#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

namespace myemb {
namespace {

using OptionalSymInt = std::optional<c10::SymInt>;

template <at::DeviceType kDevice>
at::Tensor embedding_bag_autocast(const at::Tensor& weight, const at::Tensor& indices,
                                  const OptionalTensor& offsets, bool scale_grad_by_freq,
                                  int64_t mode, bool sparse,
                                  const OptionalTensor& per_sample_weights,
                                  bool include_last_offset, OptionalSymInt padding_idx) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(kDevice));
  return embedding_bag(weight, indices, offsets, scale_grad_by_freq, mode, sparse,
                       weights_beside(weight.scalar_type(), per_sample_weights),
                       include_last_offset, std::move(padding_idx));
}

template <at::DeviceType kDevice>
at::Tensor embedding_bag_tables_autocast(at::TensorList weights, const at::Tensor& indices,
                                         const at::Tensor& offsets,
                                         at::OptionalIntArrayRef feature_tables,
                                         at::OptionalIntArrayRef modes,
                                         const OptionalTensor& per_sample_weights,
                                         at::OptionalSymIntArrayRef padding_idx,
                                         at::IntArrayRef sparse_tables) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(kDevice));
  OptionalTensor factors = per_sample_weights;
  for (const at::Tensor& weight : weights) factors = weights_beside(weight.scalar_type(), factors);
  return embedding_bag_tables(weights, indices, offsets, feature_tables, modes, factors,
                              padding_idx, sparse_tables);
}

}  // namespace

OptionalTensor weights_beside(at::ScalarType table, const OptionalTensor& per_sample_weights) {
  if (!per_sample_weights || !is_16_bit(*per_sample_weights)) return per_sample_weights;
  if (per_sample_weights->scalar_type() == table) return per_sample_weights;
  return per_sample_weights->to(accumulator_type(table));
}

OptionalTensor weights_under_autocast(const at::Tensor& table,
                                      const OptionalTensor& per_sample_weights) {
  if (!per_sample_weights || !is_16_bit(*per_sample_weights)) return per_sample_weights;
  const auto device = table.device().type();
  const bool enabled =
      at::autocast::is_autocast_available(device) && at::autocast::is_autocast_enabled(device);
  return enabled ? weights_beside(table.scalar_type(), per_sample_weights) : per_sample_weights;
}

TORCH_LIBRARY_IMPL(myemb, AutocastCPU, m) {
  m.impl("embedding_bag", &embedding_bag_autocast<at::kCPU>);
  m.impl("embedding_bag_tables", &embedding_bag_tables_autocast<at::kCPU>);
}

TORCH_LIBRARY_IMPL(myemb, AutocastCUDA, m) {
  m.impl("embedding_bag", &embedding_bag_autocast<at::kCUDA>);
  m.impl("embedding_bag_tables", &embedding_bag_tables_autocast<at::kCUDA>);
}

}  // namespace myemb
