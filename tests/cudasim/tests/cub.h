// CUB's own device algorithms, through CUB's own host code. As in CUB, a null `storage` asks for
// the size.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace cudasim_test {

cudaError_t sort_pairs(void* storage, size_t& bytes, const uint32_t* keys, uint32_t* sorted_keys,
                       const int32_t* values, int32_t* sorted_values, int64_t count, int begin_bit,
                       int end_bit);
cudaError_t sort_pairs(void* storage, size_t& bytes, const uint64_t* keys, uint64_t* sorted_keys,
                       const int64_t* values, int64_t* sorted_values, int64_t count, int begin_bit,
                       int end_bit);
cudaError_t inclusive_sum(void* storage, size_t& bytes, const int32_t* in, int32_t* out,
                          int64_t count);
cudaError_t exclusive_sum(void* storage, size_t& bytes, const int64_t* in, int64_t* out,
                          int64_t count);
cudaError_t run_length_encode(void* storage, size_t& bytes, const int32_t* in, int32_t* unique,
                              int32_t* lengths, int64_t* runs, int64_t count);

}  // namespace cudasim_test
