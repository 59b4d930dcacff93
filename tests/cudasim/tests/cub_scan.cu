#include <cub/device/device_run_length_encode.cuh>
#include <cub/device/device_scan.cuh>

#include "cub.h"

namespace cudasim_test {

cudaError_t inclusive_sum(void* storage, size_t& bytes, const int32_t* in, int32_t* out,
                          int64_t count) {
  return cub::DeviceScan::InclusiveSum(storage, bytes, in, out, count);
}

cudaError_t exclusive_sum(void* storage, size_t& bytes, const int64_t* in, int64_t* out,
                          int64_t count) {
  return cub::DeviceScan::ExclusiveSum(storage, bytes, in, out, count);
}

cudaError_t run_length_encode(void* storage, size_t& bytes, const int32_t* in, int32_t* unique,
                              int32_t* lengths, int64_t* runs, int64_t count) {
  return cub::DeviceRunLengthEncode::Encode(storage, bytes, in, unique, lengths, runs, count);
}

}  // namespace cudasim_test
