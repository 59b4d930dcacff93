#pragma once

// Reductions over the columns of a row in the lanes and the tree of the numbers contract. A thread
// holds N neighbouring lanes of a row and reads their columns in one access, so that kLanes / N
// threads, or less for a short row, hold a row: a warp works on several at once.

#include <policies/numbers.h>
#include <cuda/kernels/pack.cuh>
#include <cuda/kernels/shape.cuh>
#include <cuda/kernels/thread_group.cuh>

namespace myemb::cuda {

static_assert(kLanes == kWarp);

// How the warps of a launch share lookups: each has `lookups` of them, at most one a thread, and
// works on the rows of `groups` of them at once. That covers every lookup: where a grid ends, their
// indices alone would take terabytes.
struct LaneShape {
  int group_size;
  int groups;
  int lookups;
};

// A row's threads are those whose lanes have columns; a warp's lookups as many as leave work for
// the other warps of a GPU.
template <int N>
LaneShape lane_shape(int64_t dim, int64_t count) {
  constexpr int kManyWarps = 1024;
  int group_size = 1;
  while (group_size < kLanes / N && int64_t{group_size} * N < dim) group_size *= 2;
  const int groups = kWarp / group_size;
  int lookups = kWarp;
  while (lookups > groups && count < int64_t{lookups} * kManyWarps) lookups /= 2;
  return {group_size, groups, lookups};
}

inline dim3 grid_for_lookups(int64_t count, const LaneShape& shape) {
  return grid_for((count + shape.lookups - 1) / shape.lookups, kWarp);
}

// Puts the values that threads of a warp have, where `has`, side by side into `side_by_side`, and
// returns how many there are.
__device__ __forceinline__ int collect(bool has, int64_t value, int64_t* side_by_side) {
  const unsigned votes = __ballot_sync(kWholeWarp, has);
  const unsigned before = (1u << threadIdx.x % kWarp) - 1;
  if (has) side_by_side[__popc(votes & before)] = value;
  __syncwarp();
  return __popc(votes);
}

// The accesses of this thread to the `left` columns from `begin` on: kAccesses of N columns, kLanes
// columns apart, of which the first kWhole are known to be in the row. All are under way before one
// is used, which needs loads without conditions, and a fold without branches: one behind the end
// reads the first columns and does not count.
template <int N, int kAccesses, int kWhole, typename Load, typename Fold>
__device__ __forceinline__ void fold_accesses(const ThreadGroup& group, int64_t begin, int left,
                                              const Load& load, const Fold& fold) {
  decltype(load(begin)) loaded[kAccesses];
  bool counts[kAccesses];
#pragma unroll
  for (int u = 0; u < kAccesses; ++u) {
    const int column = group.lane() * N + u * kLanes;
    counts[u] = u < kWhole || column < left;
    loaded[u] = load(begin + (counts[u] ? column : 0));
  }
  __syncwarp();  // no load is moved past this point
#pragma unroll
  for (int u = 0; u < kAccesses; ++u) fold(loaded[u], counts[u]);
}

// Folds the columns of a row into this thread's N lanes: load(column) reads N columns and
// fold(loaded, counts) takes them, left to right. The whole warp calls it, for rows of the same
// width.
template <int N, int kInFlight, typename Load, typename Fold>
__device__ __forceinline__ void fold_columns(const ThreadGroup& group, int64_t dim,
                                             const Load& load, const Fold& fold) {
  constexpr int kColumns = kInFlight * kLanes;
  int64_t begin = 0;
#pragma unroll 1
  for (; begin + kColumns <= dim; begin += kColumns) {
    fold_accesses<N, kInFlight, kInFlight>(group, begin, kColumns, load, fold);
  }
  const int left = static_cast<int>(dim - begin);
  if (left > kColumns / 2) {
    fold_accesses<N, kInFlight, kInFlight / 2>(group, begin, left, load, fold);
  } else if (left > kLanes) {
    fold_accesses<N, kInFlight / 2, 1>(group, begin, left, load, fold);
  } else if (left > 0) {
    fold_accesses<N, 1, 0>(group, begin, left, load, fold);
  }
}

// Joins the lanes at distance 16, 8, 4, 2, 1: between threads, then within one. Lanes that no
// thread holds are as at the start. The first thread of a group gets the result.
template <int N, typename A, typename Join>
__device__ __forceinline__ A join_lanes(const ThreadGroup& group, A (&lanes)[N], A start,
                                        const Join& join) {
#pragma unroll
  for (int step = kLanes / 2; step >= N; step /= 2) {
    if (step < group.size() * N) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        lanes[n] = join(lanes[n], __shfl_down_sync(kWholeWarp, lanes[n], step / N));
      }
    } else {
#pragma unroll
      for (int n = 0; n < N; ++n) lanes[n] = join(lanes[n], start);
    }
  }
#pragma unroll
  for (int step = N / 2; step > 0; step /= 2) {
#pragma unroll
    for (int n = 0; n < step; ++n) lanes[n] = join(lanes[n], lanes[n + step]);
  }
  return lanes[0];
}

}  // namespace myemb::cuda
