#pragma once

// How many lookups bags count: those of a call, or of a feature of one.

#include <policies/numbers.h>
#include <cuda/kernels/thread_group.cuh>

namespace myemb::cuda {

// The threads of a launch, one after another, over [0, count).
__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ __forceinline__ int64_t thread_count() {
  return static_cast<int64_t>(gridDim.x) * kThreads;
}

// How many of the lookups [begin, end) are counted; every thread of the warp gets the sum.
template <typename IsCounted>
__device__ __forceinline__ int64_t count_some(const ThreadGroup& warp, const IsCounted& is_counted,
                                              int64_t begin, int64_t end) {
  int counted = 0;
#pragma unroll 1
  for (int64_t i = begin + warp.lane(); i < end; i += kWarp) counted += is_counted(i);
  return warp.sum(counted);
}

// A bag in three parts: whole windows, whose counts are known, and what is before and behind them.
template <typename IsCounted>
__device__ int64_t count_bag(const ThreadGroup& warp, const IsCounted& is_counted,
                             const int32_t* window_counts, int64_t begin, int64_t end) {
  const int64_t first = (begin + kChunk - 1) / kChunk, last = end / kChunk;
  if (first >= last) return count_some(warp, is_counted, begin, end);
  int64_t counted = count_some(warp, is_counted, begin, first * kChunk) +
                    count_some(warp, is_counted, last * kChunk, end);
#pragma unroll 1
  for (int64_t window = first; window < last; window += kWarp) {
    const int64_t mine = window + warp.lane();
    counted += warp.sum(mine < last ? window_counts[mine] : 0);
  }
  return counted;
}

// What mode mean divides by, or its reciprocal.
template <typename A>
__device__ __forceinline__ A divisor_of(int64_t counted, bool inverse) {
  const A divisor = static_cast<A>(max(counted, int64_t{1}));
  return inverse ? A(1) / divisor : divisor;
}

}  // namespace myemb::cuda
