// The gradient of per_sample_weights: a dot product per lookup.

#include <cuda/launch.h>
#include <cuda/kernels/lanes.cuh>
#include <cuda/kernels/reduce.cuh>
#include <cuda/kernels/refuse.cuh>

namespace myemb::cuda {
namespace {

constexpr int kInFlight = 4;  // columns of each thread

// A warp for each lookup. kWhereMax: positions are given.
template <typename T, bool kWhereMax>
__global__ void __launch_bounds__(kThreads)
    dot_rows(const RowDot args, const RowReader<T, 1> left_rows, const RowReader<T, 1> right_rows) {
  using A = Accumulator<T>;
  // A product that does not count is left out, and not added as zero: it may be NaN.
  struct Term {
    Word<T, 1> left, right;
    int64_t position;
  };
  const ThreadGroup warp(kWarp);
  const auto* scales = static_cast<const A*>(args.scales);
#pragma unroll 1
  for (int64_t i = warp.first_in_warp(); i < args.indices.count; i += warp.count()) {
    const int64_t bag = args.left_of[i];
    const int64_t index = load_index(args.indices, i);
    if (!is_row(index, args.right.count)) refuse_index(Op::EmbeddingBagPerSampleWeightsBackward);
    A dot = 0;
    if (bag >= 0) {
      const T* left = left_rows.row(bag);
      const T* right = right_rows.row(index);
      const int64_t* positions = args.positions + (kWhereMax ? bag * args.left.dim : 0);
      const A lane = fold_columns<kInFlight>(
          args.left.dim, A(0),
          [&](int64_t column) -> Term {
            return {left_rows.read(left, column), right_rows.read(right, column),
                    kWhereMax ? positions[column] : i};
          },
          [i](A sum, const Term& term) {
            const A product = widen(unpack<T, 1>(term.left).values[0]) *
                              widen(unpack<T, 1>(term.right).values[0]);
            return term.position == i ? sum + product : sum;
          });
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
    const auto kernel = args.positions ? dot_rows<T, true> : dot_rows<T, false>;
    kernel<<<grid, kThreads, 0, stream>>>(args, reader_of<T, 1>(args.left),
                                          reader_of<T, 1>(args.right));
    return cudaGetLastError();
  });
}

}  // namespace myemb::cuda
