#include <cub/device/device_radix_sort.cuh>

#include "cub.h"

namespace cudasim_test {

cudaError_t sort_pairs(void* storage, size_t& bytes, const uint32_t* keys, uint32_t* sorted_keys,
                       const int32_t* values, int32_t* sorted_values, int64_t count, int begin_bit,
                       int end_bit) {
  return cub::DeviceRadixSort::SortPairs(storage, bytes, keys, sorted_keys, values, sorted_values,
                                         count, begin_bit, end_bit);
}

cudaError_t sort_pairs(void* storage, size_t& bytes, const uint64_t* keys, uint64_t* sorted_keys,
                       const int64_t* values, int64_t* sorted_values, int64_t count, int begin_bit,
                       int end_bit) {
  return cub::DeviceRadixSort::SortPairs(storage, bytes, keys, sorted_keys, values, sorted_values,
                                         count, begin_bit, end_bit);
}

}  // namespace cudasim_test
