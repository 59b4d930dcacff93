// The gradient of per_sample_weights: a dot product per lookup.

#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/lanes.cuh>
#include <cuda/kernels/reduce.cuh>
#include <cuda/kernels/refuse.cuh>

namespace myemb::cuda {
namespace {

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

// A thread loads the index of a lookup, groups multiply its rows, and the thread gets the product
// to store. kWhereMax: positions are given.
template <typename T, int N, bool kWhereMax>
__global__ void __launch_bounds__(kThreads, kWhereMax ? 2 : 3)
    dot_rows(const RowDot args, const RowReader<T, N> left_rows, const RowReader<T, N> right_rows,
             const LaneShape shape) {
  using A = Accumulator<T>;
  const ThreadGroup group(shape.group_size), warp(kWarp);
  const int64_t first = warp.first_in_warp() * shape.lookups;
  if (first >= args.indices.count) return;
  const int count = static_cast<int>(min(args.indices.count - first, int64_t{shape.lookups}));
  const int64_t i = first + min(warp.lane(), count - 1);
  const int64_t bag = args.left_of[i];
  const int64_t index = load_index(args.indices, i);
  if (!is_row(index, args.right.count)) refuse_index(Op::EmbeddingBagPerSampleWeightsBackward);
  const int64_t some_bag = max(bag, int64_t{0});  // of padding, whose product is not used
  const int64_t dim = args.left.dim;
  const Factors<T, N, kWhereMax> mine{left_rows, right_rows, left_rows.row(some_bag),
                                      right_rows.row(index), args.positions + some_bag * dim};
  A product = 0;
#pragma unroll 1
  for (int begin = 0; begin < count; begin += shape.groups) {
    const int at = begin + group.in_warp();
    const A of_group = dot(group, dim, mine.from(at), first + at);
    const int behind = warp.lane() - begin;
    const A of_lookup = warp.from(of_group, behind * group.size());
    if (behind >= 0 && behind < shape.groups) product = of_lookup;
  }
  const auto* scales = static_cast<const A*>(args.scales);
  if (scales) product = product * scales[i];
  if (warp.lane() < count) static_cast<A*>(args.out)[i] = bag >= 0 ? product : A(0);
}

template <typename T, bool kWhereMax>
int launch_dots(const RowDot& args, Stream stream) {
  const auto launch = [&]<int N>() -> int {
    const LaneShape shape = lane_shape<N>(args.left.dim, args.indices.count);
    const dim3 grid = grid_for_lookups(args.indices.count, shape);
    dot_rows<T, N, kWhereMax><<<grid, kThreads, 0, stream>>>(args, reader_of<T, N>(args.left),
                                                             reader_of<T, N>(args.right), shape);
    return cudaGetLastError();
  };
  if (kWhereMax && !is_aligned(args.positions, kAccessBytes))
    return launch.template operator()<1>();
  constexpr int kWidest = std::min<int>(kAccessBytes / sizeof(T), kWhereMax ? 4 : kLanes);
  return visit_width<T, kWidest>(args.left, args.left.data, [&]<int kLeft>() {
    return visit_width<T, kLeft>(args.right, args.right.data, launch);
  });
}

}  // namespace

int launch_row_dot(const RowDot& args, Stream stream) {
  if (args.indices.count == 0) return cudaSuccess;
  return visit(args.left.dtype, [&]<typename T>(T) {
    return args.positions ? launch_dots<T, true>(args, stream)
                          : launch_dots<T, false>(args, stream);
  });
}

}  // namespace myemb::cuda
