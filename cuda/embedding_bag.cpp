#include <cuda/bags.h>
#include <cuda/ops.h>

#include <array>

namespace myemb::cuda {
namespace {

using OptionalIndex = std::optional<int64_t>;

at::Tensor sum_bags(const DeviceCall& call, const at::Tensor& weight, const CudaBags& bags,
                    bool average) {
  const Rows rows = rows_of(weight);
  const at::Tensor out = call.output({bags.segments.count, rows.dim}, weight.options());
  const at::Tensor partials = call.scratch(static_cast<int64_t>(
      sum_partials_bytes(lookups_in_chunks(bags.lookups), rows.dim, rows.dtype)));
  const BagSum args{
      .rows = rows,
      .lookups = bags.lookups,
      .average = average,
      .out = out.mutable_data_ptr(),
      .partials = partials.mutable_data_ptr(),
  };
  call.check(launch_bag_sum(args, call.stream()));
  return out;
}

// The positions are computed only if wanted, and undefined otherwise.
std::tuple<at::Tensor, at::Tensor> max_bags(const DeviceCall& call, const at::Tensor& weight,
                                            const CudaBags& bags, bool want_positions) {
  const Rows rows = rows_of(weight);
  const std::array<int64_t, 2> shape{bags.segments.count, rows.dim};
  const at::Tensor out = call.output(shape, weight.options());
  const at::Tensor positions =
      want_positions ? call.output(shape, weight.options().dtype(at::kLong)) : at::Tensor();
  const at::Tensor partials = call.scratch(static_cast<int64_t>(
      max_partials_bytes(lookups_in_chunks(bags.lookups), rows.dim, rows.dtype)));
  const BagMax args{
      .rows = rows,
      .lookups = bags.lookups,
      .out = out.mutable_data_ptr(),
      .positions = want_positions ? positions.mutable_data_ptr<int64_t>() : nullptr,
      .partials = partials.mutable_data_ptr(),
  };
  call.check(launch_bag_max(args, call.stream()));
  return {out, positions};
}

at::Tensor embedding_bag(const at::Tensor& weight, const at::Tensor& indices,
                         const OptionalTensor& offsets, bool scale_grad_by_freq, int64_t mode,
                         bool sparse, const OptionalTensor& per_sample_weights,
                         bool include_last_offset, OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_embedding_bag_arguments(weight, arguments, mode, scale_grad_by_freq, sparse);
  const DeviceCall call(weight, "embedding_bag");
  const CudaBags bags(call, arguments, padding_idx, weight.size(0), weight.scalar_type());
  if (is_mode(mode, BagMode::Max)) return std::get<0>(max_bags(call, weight, bags, false));
  return sum_bags(call, weight, bags, is_mode(mode, BagMode::Mean));
}

std::tuple<at::Tensor, at::Tensor> embedding_bag_max(
    const at::Tensor& weight, const at::Tensor& indices, const OptionalTensor& offsets,
    const OptionalTensor& per_sample_weights, bool include_last_offset, OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_embedding_bag_arguments(weight, arguments, static_cast<int64_t>(BagMode::Max), false,
                                false);
  const DeviceCall call(weight, "embedding_bag_max");
  const CudaBags bags(call, arguments, padding_idx, weight.size(0), weight.scalar_type());
  return max_bags(call, weight, bags, true);
}

at::Tensor checked_offsets(const at::Tensor& offsets, int64_t num_lookups,
                           bool include_last_offset) {
  check_offsets_arguments(offsets);
  const DeviceCall call(offsets, "checked_offsets");
  const at::Tensor starts =
      offsets.to(at::kLong, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
  const int64_t count = starts.size(-1);
  check_lookups_have_bags(count, num_lookups);
  const OffsetsCheck args{
      .offsets = starts.const_data_ptr<int64_t>(),
      .batches = count == 0 ? 0 : starts.numel() / count,
      .count = count,
      .num_lookups = num_lookups,
      .include_last_offset = include_last_offset,
  };
  call.check(launch_offsets_check(args, call.stream()));
  return starts;
}

}  // namespace

void register_embedding_bag(torch::Library& m) {
  m.impl("embedding_bag", &embedding_bag);
  m.impl("embedding_bag_max", &embedding_bag_max);
  m.impl("checked_offsets", &checked_offsets);
}

}  // namespace myemb::cuda
