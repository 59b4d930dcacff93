// group-reduce-apply: the dense gradient of a table is the sum of the output's gradient over the
// lookups of each of its rows.

#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/runs.cuh>
#include <cuda/kernels/where_max.cuh>

namespace myemb::cuda {
namespace {

// Columns of a thread in mode max: two positions are as much as it can read at once, and of double
// with its position one is as much as fits in the registers.
template <typename T>
constexpr int kMaxColumns = sizeof(T) < sizeof(int64_t) ? 2 : 1;

template <typename T, int N, typename Reader>
int launch_runs_and_long_sums(const GradientSum& args, const Reader& rows, Stream stream) {
  const int64_t count = args.groups.count;
  const Runs<Accumulator<T>> runs(args);
  const auto output = sum_output<T>(args.out, args.partials, count, args.rows.dim, args.average);
  const int error = args.average ? launch_runs<T, N, true>(runs, count, rows, output, stream)
                                 : launch_runs<T, N, false>(runs, count, rows, output, stream);
  if (error != cudaSuccess) return error;
  return launch_long_sums<T, N>(runs, count, rows, output, stream);
}

// Calls f.operator()<T, N>(reader) with the reader of the gradient's rows; `out` as in visit_width.
template <typename F>
int visit_reader(const GradientSum& args, const void* out, const F& f) {
  return visit(args.rows.dtype, [&]<typename T>(T) {
    if (!args.positions) {
      return visit_width<T>(args.rows, out, [&]<int N>() {
        return f.template operator()<T, N>(reader_of<T, N>(args.rows));
      });
    }
    const auto with_positions = [&]<int N>() {
      return f.template operator()<T, N>(
          WhereMax<T, N>{reader_of<T, N>(args.rows), args.positions, args.rows.dim});
    };
    if (!is_aligned(args.positions, kAccessBytes)) return with_positions.template operator()<1>();
    return visit_width<T, kMaxColumns<T>>(args.rows, out, with_positions);
  });
}

}  // namespace

int launch_gradient_sum(const GradientSum& args, Stream stream) {
  if (args.groups.count == 0) return cudaSuccess;
  return visit_reader(args, args.out, [&]<typename T, int N>(const auto& rows) {
    return launch_runs_and_long_sums<T, N>(args, rows, stream);
  });
}

int launch_gradient_chunks(const GradientSum& args, Stream stream) {
  const int64_t count = args.groups.count, dim = args.rows.dim;
  return visit_reader(args, args.partials, [&]<typename T, int N>(const auto& rows) {
    const Runs<Accumulator<T>> runs(args);
    const auto output = sum_output<T>(nullptr, args.partials, count, dim, args.average);
    return launch_chunks<T, N, Sum<T, N>>(runs, count, dim, rows, output, stream);
  });
}

}  // namespace myemb::cuda
