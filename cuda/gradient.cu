// group-reduce-apply: the dense gradient of a table is the sum of the output's gradient over the
// lookups of each of its rows.

#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/sum.cuh>

namespace myemb::cuda {
namespace {

// Mode max: a lookup adds to the columns whose maximum it was.
template <typename T>
struct WhereMax : RowReader<T, 1> {
  static constexpr bool kUsesPosition = true;
  static constexpr int kBytes = sizeof(T) + sizeof(int64_t);

  const int64_t* positions;  // (B, dim)
  int64_t dim;

  __device__ bool takes(int64_t row, int64_t column, int64_t position) const {
    return positions[row * dim + column] == position;
  }
};

}  // namespace

int launch_gradient_sum(const GradientSum& args, Stream stream) {
  const int64_t count = args.groups.count;
  if (count == 0) return cudaSuccess;
  return visit(args.rows.dtype, [&]<typename T>(T) {
    const Runs<Accumulator<T>> runs(args);
    const int64_t dim = args.rows.dim;
    const auto output = sum_output<T>(args.out, args.partials, count, dim, args.average);
    if (args.positions) {
      const WhereMax<T> reader{reader_of<T, 1>(args.rows), args.positions, dim};
      return launch_sum<T, 1>(runs, count, count, reader, output, stream);
    }
    return visit_width<T>(args.rows, args.out, [&]<int N>() {
      return launch_sum<T, N>(runs, count, count, reader_of<T, N>(args.rows), output, stream);
    });
  });
}

}  // namespace myemb::cuda
