#pragma once

// Dot products of rows, one a lookup: the gradient of per_sample_weights.
//
//   struct Dots {   // of a call, or of features of one
//     int64_t count;
//     // What lookup i multiplies.
//     DotOf<T, N, kWhereMax> lookup(int64_t i) const;
//   };

#include <cuda/kernels/width.h>
#include <cuda/kernels/lanes.cuh>
#include <cuda/kernels/reduce.cuh>

namespace myemb::cuda {

// Mode max: which lookup gave each of N columns. Read two at a time.
template <int N>
__device__ __forceinline__ void load_positions(const int64_t* from, int64_t (&positions)[N]) {
  if constexpr (N == 1) {
    positions[0] = __ldg(from);
  } else {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      const longlong2 pair = __ldg(reinterpret_cast<const longlong2*>(from + n));
      positions[n] = pair.x;
      positions[n + 1] = pair.y;
    }
  }
}

// A lookup's two rows, and the positions of the left one if kWhereMax.
template <typename T, int N, bool kWhereMax>
struct Factors {
  static constexpr int kInFlight = kWhereMax ? 2 : 4;  // positions take many registers

  struct Columns {
    Word<T, N> left, right;
    int64_t positions[kWhereMax ? N : 1];
  };

  RowReader<T, N> left_rows, right_rows;
  const T* left;
  const T* right;
  const int64_t* positions;

  // The same of the lookup that thread `lane` of the warp has.
  __device__ Factors from(int lane) const {
    const ThreadGroup warp(kWarp);
    return {left_rows, right_rows, warp.from(left, lane), warp.from(right, lane),
            kWhereMax ? warp.from(positions, lane) : nullptr};
  }

  __device__ Columns load(int64_t column) const {
    Columns columns;
    columns.left = left_rows.read(left, column);
    columns.right = right_rows.read(right, column);
    if constexpr (kWhereMax) load_positions(positions + column, columns.positions);
    return columns;
  }
};

// The dot product for each group of a warp, known to its first thread.
template <typename T, int N, bool kWhereMax>
__device__ __forceinline__ Accumulator<T> dot(const ThreadGroup& group, int64_t dim,
                                              const Factors<T, N, kWhereMax>& factors,
                                              int64_t lookup) {
  using A = Accumulator<T>;
  using Columns = typename Factors<T, N, kWhereMax>::Columns;
  A lanes[N] = {};
  // A product that does not count is left out, and not added as zero: it may be NaN.
  const auto add = [&](const Columns& columns, bool counts) {
    A left[N], right[N];
    widen_all<T, N>(columns.left, left);
    widen_all<T, N>(columns.right, right);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const A sum = lanes[n] + left[n] * right[n];
      const bool adds = counts && (!kWhereMax || columns.positions[n] == lookup);
      lanes[n] = adds ? sum : lanes[n];
    }
  };
  fold_columns<N, Factors<T, N, kWhereMax>::kInFlight>(
      group, dim, [&](int64_t column) { return factors.load(column); }, add);
  return join_lanes(group, lanes, A(0), [](A a, A b) { return a + b; });
}

// What a lookup's product is made of.
template <typename T, int N, bool kWhereMax>
struct DotOf {
  Factors<T, N, kWhereMax> factors;
  int64_t scale_at;  // of its factor among the scales
  bool is_padding;   // its product is 0
  bool is_wanted;
};

// A thread finds out about a lookup, groups multiply its rows, and the thread gets the product to
// store. kWhereMax: positions are given.
template <typename T, int N, bool kWhereMax, typename Dots>
__global__ void __launch_bounds__(kThreads, kWhereMax ? 2 : 3)
    dot_rows(const Dots dots, const Accumulator<T>* scales, Accumulator<T>* out,
             const LaneShape shape) {
  using A = Accumulator<T>;
  const ThreadGroup group(shape.group_size), warp(kWarp);
  const int64_t first = warp.first_in_warp() * shape.lookups;
  if (first >= dots.count()) return;
  const int count = static_cast<int>(min(dots.count() - first, int64_t{shape.lookups}));
  const int64_t i = first + min(warp.lane(), count - 1);
  const DotOf<T, N, kWhereMax> mine = dots.lookup(i);
  if (!any_in_warp(mine.is_wanted)) return;
  A product = 0;
#pragma unroll 1
  for (int begin = 0; begin < count; begin += shape.groups) {
    const int at = begin + group.in_warp();
    const A of_group = dot(group, dots.dim(), mine.factors.from(at), first + at);
    const int behind = warp.lane() - begin;
    const A of_lookup = warp.from(of_group, behind * group.size());
    if (behind >= 0 && behind < shape.groups) product = of_lookup;
  }
  if (scales && mine.is_wanted) product = product * scales[mine.scale_at];
  if (warp.lane() < count && mine.is_wanted) out[i] = mine.is_padding ? A(0) : product;
}

template <typename T, int N, bool kWhereMax, typename Dots>
int launch_dots(const Dots& dots, int64_t count, int64_t dim, const void* scales, void* out,
                cudaStream_t stream) {
  using A = Accumulator<T>;
  const LaneShape shape = lane_shape<N>(dim, count);
  dot_rows<T, N, kWhereMax, Dots><<<grid_for_lookups(count, shape), kThreads, 0, stream>>>(
      dots, static_cast<const A*>(scales), static_cast<A*>(out), shape);
  return cudaGetLastError();
}

// Values that a thread reads of each row at once, at most.
template <typename T, bool kWhereMax>
inline constexpr int kDotColumns = std::min<int>(kAccessBytes / sizeof(T), kWhereMax ? 4 : kLanes);

}  // namespace myemb::cuda
