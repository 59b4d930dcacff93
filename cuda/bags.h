#pragma once

// The lookups of an embedding_bag call on a device.

#include <cuda/device.h>
#include <ops/views.h>

namespace myemb::cuda {

class CudaBags : public BagViews {
 public:
  // The kernels assert that offsets start at 0, do not fall and stay within the lookups. Where no
  // kernel goes through the bags, because there are none or only lookups matter, check_offsets
  // does.
  CudaBags(const DeviceCall& call, const BagArguments& arguments,
           std::optional<int64_t> padding_idx, int64_t num_weights, at::ScalarType values);

  void check_offsets() const;

  BagLookups lookups;

 private:
  const DeviceCall& call_;
  bool include_last_offset_;
};

}  // namespace myemb::cuda
