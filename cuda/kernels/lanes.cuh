#pragma once

// Reductions over the columns of a row in the lanes and the tree of the numbers contract: a warp's
// threads are its lanes.

#include <policies/numbers.h>
#include <cuda/kernels/row_group.cuh>

namespace myemb::cuda {

static_assert(kLanes == kWarp);

// This thread's lane of a row: load(column) for each of its columns, several in flight, and
// fold(lane, value) in order.
template <int kInFlight, typename A, typename Load, typename Fold>
__device__ A fold_columns(int64_t dim, A start, const Load& load, const Fold& fold) {
  const int64_t lane = threadIdx.x % kLanes;
  A result = start;
  int64_t column = lane;
  for (; column + (kInFlight - 1) * kLanes < dim; column += kInFlight * kLanes) {
    decltype(load(column)) values[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) values[u] = load(column + u * kLanes);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) result = fold(result, values[u]);
  }
  for (; column < dim; column += kLanes) result = fold(result, load(column));
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
