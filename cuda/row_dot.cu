// The gradient of per_sample_weights: a dot product per lookup.

#include <cuda/launch.h>
#include <cuda/kernels/lanes.cuh>
#include <cuda/kernels/reduce.cuh>
#include <cuda/kernels/refuse.cuh>

namespace myemb::cuda {
namespace {

// A warp for each lookup.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    dot_rows(const RowDot args, const RowReader<T, 1> left_rows, const RowReader<T, 1> right_rows) {
  using A = Accumulator<T>;
  const RowGroup warp(kWarp);
  const auto* scales = static_cast<const A*>(args.scales);
  for (int64_t i = warp.first_in_warp(); i < args.indices.count; i += warp.count()) {
    const int64_t left = args.left_of[i];
    const int64_t right = load_index(args.indices, i);
    if (!is_row(right, args.right.count)) refuse_index(Op::EmbeddingBagPerSampleWeightsBackward);
    const int64_t* positions = args.positions ? args.positions + left * args.left.dim : nullptr;
    A dot = 0;
    if (left >= 0) {
      // A product that does not count is left out, and not added as zero: it may be NaN.
      struct Term {
        A product;
        bool counts;
      };
      const A lane = fold_columns<4>(
          args.left.dim, A(0),
          [&](int64_t column) -> Term {
            if (positions && positions[column] != i) return {A(0), false};
            return {widen(left_rows.read(left, column).values[0]) *
                        widen(right_rows.read(right, column).values[0]),
                    true};
          },
          [](A sum, const Term& term) { return term.counts ? sum + term.product : sum; });
      dot = join_lanes(lane, [](A a, A b) { return a + b; });
      if (scales) dot = dot * scales[i];
    }
    if (warp.lane() == 0) static_cast<A*>(args.out)[i] = dot;
  }
}

}  // namespace

int launch_row_dot(const RowDot& args, Stream stream) {
  if (args.indices.count == 0) return cudaSuccess;
  const dim3 grid = grid_for(args.indices.count, kWarp);
  return visit(args.left.dtype, [&]<typename T>(T) -> int {
    dot_rows<T><<<grid, kThreads, 0, stream>>>(args, reader_of<T, 1>(args.left),
                                               reader_of<T, 1>(args.right));
    return cudaGetLastError();
  });
}

}  // namespace myemb::cuda
