// max_norm: scales the rows whose p-norm is too large.

#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <policies/norms.h>
#include <cuda/kernels/lanes.cuh>
#include <cuda/kernels/reduce.cuh>

#include <cmath>
#include <type_traits>

namespace myemb::cuda {
namespace {

constexpr int kInFlight = 4;  // accesses of a thread

// N columns of rows that are changed in place.
template <typename T, int N>
struct RowsInPlace {
  T* data;
  int64_t row_stride;
  int64_t column_stride;  // not 1 only if N is

  __device__ T* at(T* row, int64_t column) const {
    return row + (N == 1 ? column * column_stride : column);
  }

  // Not through the read-only path.
  __device__ Word<T, N> read(T* row, int64_t column) const {
    return __ldca(reinterpret_cast<const Word<T, N>*>(at(row, column)));
  }
};

// The norm of the row of each group, known to all its threads.
template <typename T, int N, typename Norm>
__device__ __forceinline__ double norm_of_row(const ThreadGroup& group, int64_t dim,
                                              const RowsInPlace<T, N>& rows, T* row,
                                              const Norm& norm) {
  using A = Accumulator<T>;
  A lanes[N];
#pragma unroll
  for (int n = 0; n < N; ++n) lanes[n] = Norm::start;
  fold_columns<N, kInFlight>(
      group, dim, [&](int64_t column) { return rows.read(row, column); },
      [&](const Word<T, N>& word, bool counts) {
        A columns[N];
        widen_all<T, N>(word, columns);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const A next = norm.fold(lanes[n], std::abs(columns[n]));
          lanes[n] = counts ? next : lanes[n];
        }
      });
  const auto join = [&](A a, A b) { return norm.join(a, b); };
  return norm.finish(group.from(join_lanes(group, lanes, Norm::start, join), 0));
}

template <typename T, int N>
__device__ __forceinline__ void scale_row(const ThreadGroup& group, int64_t dim,
                                          const RowsInPlace<T, N>& rows, T* row,
                                          Accumulator<T> scale) {
#pragma unroll 1
  for (int64_t begin = group.lane() * N; begin < dim; begin += kInFlight * kLanes) {
    Word<T, N> words[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t column = begin + u * kLanes;
      words[u] = rows.read(row, column < dim ? column : begin);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t column = begin + u * kLanes;
      if (column >= dim) continue;
      Accumulator<T> columns[N];
      widen_all<T, N>(words[u], columns);
#pragma unroll
      for (int n = 0; n < N; ++n) columns[n] = columns[n] * scale;
      store_narrowed<T>(rows.at(row, column), columns);
    }
  }
}

// Puts the rows that start among `count` sorted lookups from `first` on side by side, and returns
// how many. The first of a row's lookups stands for the row.
__device__ __forceinline__ int collect_rows(const SortedLookups& lookups, int64_t first, int count,
                                            int64_t* indices) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t i = first + lane;
  const bool is_mine = lane < count && i < lookups.count();
  const int64_t index = is_mine ? lookups.row(i) : 0;
  return collect(is_mine && lookups.starts_row(i, index), index, indices);
}

template <typename T, int N, typename Norm>
__global__ void __launch_bounds__(kThreads, 3)  // no more registers spared: a power norm needs 78
    renorm_rows(const RowRenorm args, const RowsInPlace<T, N> rows, const SortedLookups lookups,
                const Norm norm, const LaneShape shape) {
  __shared__ int64_t held[kThreads];
  const ThreadGroup group(shape.group_size), warp(kWarp);
  int64_t* const indices = held + (threadIdx.x - warp.lane());
  const int64_t first = warp.first_in_warp() * shape.lookups;
  const int count = collect_rows(lookups, first, shape.lookups, indices);
#pragma unroll 1
  for (int begin = 0; begin < count; begin += shape.groups) {
    const int at = begin + group.in_warp();
    T* row = rows.data + indices[min(at, count - 1)] * rows.row_stride;
    const double length = norm_of_row(group, args.dim, rows, row, norm);
    if (at < count && length > args.max_norm) {
      const double scale = args.max_norm / (length + kRenormEpsilon);
      scale_row(group, args.dim, rows, row, static_cast<Accumulator<T>>(scale));
    }
    __syncwarp();
  }
}

template <typename T, int N, typename Norm>
int launch_renorm(const RowRenorm& args, const Norm& norm, Stream stream) {
  const SortedLookups lookups(args.groups);
  const LaneShape shape = lane_shape<N>(args.dim, args.groups.count);
  const dim3 grid = grid_for_lookups(args.groups.count, shape);
  const RowsInPlace<T, N> rows{static_cast<T*>(args.data), args.row_stride, args.column_stride};
  renorm_rows<T, N><<<grid, kThreads, 0, stream>>>(args, rows, lookups, norm, shape);
  return cudaGetLastError();
}

}  // namespace

int launch_row_renorm(const RowRenorm& args, Stream stream) {
  if (args.groups.count == 0) return cudaSuccess;
  const Rows rows{args.data, args.dtype,      args.groups.num_rows,
                  args.dim,  args.row_stride, args.column_stride};
  return visit(args.dtype, [&]<typename T>(T) {
    return visit_norm<Accumulator<T>>(args.norm_type, [&]<typename Norm>(const Norm& norm) {
      // The norm that everybody uses is read in wide accesses; for the others it would be much
      // code.
      constexpr bool kIsUsual = std::is_same_v<Norm, Euclidean<Accumulator<T>>>;
      constexpr int kWidest = kIsUsual ? kAccessBytes / sizeof(T) : 1;
      return visit_width<T, kWidest>(
          rows, rows.data, [&]<int N>() { return launch_renorm<T, N>(args, norm, stream); });
    });
  });
}

}  // namespace myemb::cuda
