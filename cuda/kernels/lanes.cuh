#pragma once

// Reductions over the columns of a row in the lanes and the tree of the numbers contract: a warp's
// threads are its lanes.

#include <policies/numbers.h>
#include <cuda/kernels/thread_group.cuh>

namespace myemb::cuda {

static_assert(kLanes == kWarp);

// This thread's lane of a row: load(column) for each of its columns, kInFlight of them before one
// is used, and fold(lane, value) in order. The whole warp is in the row. Loads without conditions
// can be under way together: behind the end, the last column is loaded again.
template <int kInFlight, typename A, typename Load, typename Fold>
__device__ __forceinline__ A fold_columns(int64_t dim, A start, const Load& load,
                                          const Fold& fold) {
  A result = start;
#pragma unroll 1
  for (int64_t left = 0; left < dim; left += kInFlight * kLanes) {
    const int64_t column = left + threadIdx.x % kLanes;
    decltype(load(column)) values[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) values[u] = load(min(column + u * kLanes, dim - 1));
    __syncwarp();  // no load is moved past this point
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (column + u * kLanes < dim) result = fold(result, values[u]);
    }
  }
  return result;
}

// Joins the lanes at distance 16, 8, 4, 2, 1. Every thread gets the result.
template <typename A, typename Join>
__device__ A join_lanes(A lane, const Join& join) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    lane = join(lane, __shfl_down_sync(~0u, lane, step));
  }
  return __shfl_sync(~0u, lane, 0);
}

}  // namespace myemb::cuda
