// max_norm: scales the rows whose p-norm is too large.

#include <cuda/launch.h>
#include <policies/norms.h>
#include <cuda/kernels/lanes.cuh>
#include <cuda/kernels/reduce.cuh>

namespace myemb::cuda {
namespace {

// A warp for each lookup; the first of a row's lookups stands for the row.
template <typename T, typename Norm>
__global__ void __launch_bounds__(kThreads, 3)  // no more registers spared: a power norm needs 78
    renorm_rows(const RowRenorm args, const SortedLookups lookups, const Norm norm) {
  using A = Accumulator<T>;
  const ThreadGroup warp(kWarp);
#pragma unroll 1
  for (int64_t i = warp.first_in_warp(); i < lookups.count(); i += warp.count()) {
    const int64_t index = lookups.row(i);
    if (!lookups.starts_row(i, index)) continue;
    T* row = static_cast<T*>(args.data) + index * args.row_stride;
    const A lane = fold_columns<4>(
        args.dim, Norm::start,
        [&](int64_t column) {
          const A x = widen(row[column * args.column_stride]);
          return x < 0 ? -x : x;
        },
        [&](A folded, A x) { return norm.fold(folded, x); });
    const double length = norm.finish(join_lanes(lane, [&](A a, A b) { return norm.join(a, b); }));
    if (!(length > args.max_norm)) continue;
    const auto scale = static_cast<A>(args.max_norm / (length + kRenormEpsilon));
#pragma unroll 1
    for (int64_t column = warp.lane(); column < args.dim; column += kWarp) {
      T& x = row[column * args.column_stride];
      x = narrow<T>(widen(x) * scale);
    }
  }
}

}  // namespace

int launch_row_renorm(const RowRenorm& args, Stream stream) {
  if (args.groups.count == 0) return cudaSuccess;
  const dim3 grid = grid_for(args.groups.count, kWarp);
  const SortedLookups lookups(args.groups);
  return visit(args.dtype, [&]<typename T>(T) {
    return visit_norm<Accumulator<T>>(args.norm_type, [&](const auto& norm) -> int {
      renorm_rows<T><<<grid, kThreads, 0, stream>>>(args, lookups, norm);
      return cudaGetLastError();
    });
  });
}

}  // namespace myemb::cuda
