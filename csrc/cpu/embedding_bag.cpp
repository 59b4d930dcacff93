#include <cpu/bags.h>
#include <cpu/large_blocks.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <myemb/ops.h>

#include <torch/library.h>

#include <array>

namespace myemb {
namespace {

using OptionalIndex = std::optional<int64_t>;

at::Tensor sum_bags(const at::Tensor& weight, const CpuBags& bags, bool average) {
  const at::Tensor out = empty_result({bags.segments.count, weight.size(1)}, weight.options());
  BadIndex bad;
  run_segment_sum({
      .rows = rows_of(weight),
      .indices = bags.indices,
      .segments = bags.segments,
      .weights = bags.weights_data(),
      .padding_idx = bags.padding_idx,
      .average = average,
      .out = out.mutable_data_ptr(),
      .bad = &bad,
  });
  check_lookups(bad, bags.indices, weight.size(0), "embedding_bag");
  return out;
}

// The positions are computed only if wanted, and undefined otherwise.
std::tuple<at::Tensor, at::Tensor> max_bags(const at::Tensor& weight, const CpuBags& bags,
                                            bool want_positions) {
  const std::array<int64_t, 2> shape{bags.segments.count, weight.size(1)};
  const at::Tensor out = empty_result(shape, weight.options());
  const at::Tensor positions =
      want_positions ? empty_result(shape, weight.options().dtype(at::kLong)) : at::Tensor();
  BadIndex bad;
  run_segment_max({
      .rows = rows_of(weight),
      .indices = bags.indices,
      .segments = bags.segments,
      .weights = bags.weights_data(),
      .padding_idx = bags.padding_idx,
      .out = out.mutable_data_ptr(),
      .positions = want_positions ? positions.mutable_data_ptr<int64_t>() : nullptr,
      .bad = &bad,
  });
  check_lookups(bad, bags.indices, weight.size(0), "embedding_bag");
  return {out, positions};
}

at::Tensor embedding_bag_cpu(const at::Tensor& weight, const at::Tensor& indices,
                             const OptionalTensor& offsets, bool scale_grad_by_freq, int64_t mode,
                             bool sparse, const OptionalTensor& per_sample_weights,
                             bool include_last_offset, OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_embedding_bag_arguments(weight, arguments, mode, scale_grad_by_freq, sparse);
  const CpuBags bags(arguments, padding_idx, weight.size(0), weight.scalar_type());
  if (is_mode(mode, BagMode::Max)) return std::get<0>(max_bags(weight, bags, false));
  return sum_bags(weight, bags, is_mode(mode, BagMode::Mean));
}

std::tuple<at::Tensor, at::Tensor> embedding_bag_max_cpu(
    const at::Tensor& weight, const at::Tensor& indices, const OptionalTensor& offsets,
    const OptionalTensor& per_sample_weights, bool include_last_offset, OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_embedding_bag_arguments(weight, arguments, static_cast<int64_t>(BagMode::Max), false,
                                false);
  const CpuBags bags(arguments, padding_idx, weight.size(0), weight.scalar_type());
  return max_bags(weight, bags, true);
}

at::Tensor checked_offsets_cpu(const at::Tensor& offsets, int64_t num_lookups,
                               bool include_last_offset) {
  check_offsets_arguments(offsets);
  const at::Tensor starts =
      offsets.to(at::kLong, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
  const int64_t count = starts.size(-1);
  for (int64_t i = 0; i < starts.numel() / std::max<int64_t>(count, 1); ++i) {
    check_offsets(starts.const_data_ptr<int64_t>() + i * count, count, num_lookups,
                  include_last_offset);
  }
  if (count == 0) check_offsets(nullptr, 0, num_lookups, include_last_offset);
  return starts;
}

}  // namespace

TORCH_LIBRARY_IMPL(myemb, CPU, m) {
  m.impl("embedding_bag", &embedding_bag_cpu);
  m.impl("embedding_bag_max", &embedding_bag_max_cpu);
  m.impl("checked_offsets", &checked_offsets_cpu);
}

}  // namespace myemb
