#include <cuda/bags.h>

namespace myemb::cuda {

CudaBags::CudaBags(const DeviceCall& call, const BagArguments& arguments,
                   std::optional<int64_t> padding_idx, int64_t num_weights, at::ScalarType values)
    : BagViews(arguments, padding_idx, num_weights, values),
      lookups{indices, segments, num_weights, this->padding_idx, weights_data()},
      call_(call),
      include_last_offset_(arguments.include_last_offset) {
  if (segments.count == 0) check_offsets();
}

void CudaBags::check_offsets() const {
  if (!segments.starts) return;
  call_.check(launch_offsets_check({.offsets = segments.starts,
                                    .batches = 1,
                                    .count = segments.starts_count,
                                    .num_lookups = indices.count,
                                    .include_last_offset = include_last_offset_},
                                   call_.stream()));
}

}  // namespace myemb::cuda
