// The values of a sparse gradient: each lookup's share of its bag's gradient.

#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/reduce.cuh>

namespace myemb::cuda {
namespace {

constexpr int kRows = 4;  // written by a group at once

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    scale_rows(const int group_size, const WeightedRows args, const RowReader<T, N> rows) {
  using A = Accumulator<T>;
  const ThreadGroup group(group_size);
  const auto* weights = static_cast<const A*>(args.weights);
  const int64_t dim = args.rows.dim;
#pragma unroll 1
  for (int64_t warp_first = group.first_in_warp() * kRows; warp_first < args.count;
       warp_first += group.count() * kRows) {
    const int64_t first = warp_first + group.in_warp() * kRows;
    const int64_t i = min(first + group.lane() % kRows, args.count - 1);
    const int64_t mine = args.sources[i];
    const A weight = weights && mine >= 0 ? weights[i] : A(1);
    const unsigned taken = group.vote(mine >= 0);
    const T* address = rows.row(max(mine, int64_t{0}));
    const T* sources[kRows];
    A scales[kRows];
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      sources[u] = group.from(address, u);
      scales[u] = group.from(weight, u);
    }
#pragma unroll 1
    for (int64_t left = 0; left < dim; left += group.size() * N) {
      const int64_t column = left + group.lane() * N;
      const bool in_row = column < dim;
      Word<T, N> words[kRows];
#pragma unroll
      for (int u = 0; u < kRows; ++u) words[u] = rows.read(sources[u], in_row ? column : 0);
      __syncwarp();  // no load is moved past this point
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        if (!in_row || first + u >= args.count) continue;
        const Pack<T, N> row = unpack<T, N>(words[u]);
        A scaled[N];
#pragma unroll
        for (int n = 0; n < N; ++n) {  // a sum of one term, so that a -0 becomes 0
          scaled[n] = A(0) + (taken >> u & 1 ? widen(row.values[n]) * scales[u] : A(0));
        }
        store_narrowed<T>(static_cast<T*>(args.out) + (first + u) * dim + column, scaled);
      }
    }
  }
}

}  // namespace

int launch_weighted_rows(const WeightedRows& args, Stream stream) {
  if (args.count == 0 || args.rows.dim == 0) return cudaSuccess;
  return visit(args.rows.dtype, [&]<typename T>(T) {
    return visit_width<T>(args.rows, args.out, [&]<int N>() -> int {
      int size = kRows;
      while (size < kWarp && static_cast<int64_t>(size) * N < args.rows.dim) size *= 2;
      const dim3 grid = grid_for((args.count + kRows - 1) / kRows, size);
      scale_rows<T, N><<<grid, kThreads, 0, stream>>>(size, args, reader_of<T, N>(args.rows));
      return cudaGetLastError();
    });
  });
}

}  // namespace myemb::cuda
