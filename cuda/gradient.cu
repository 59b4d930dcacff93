// group-reduce-apply: the dense gradient of a table is the sum of the output's gradient over the
// lookups of each of its rows.

#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/runs.cuh>
#include <cuda/kernels/where_max.cuh>

#include <algorithm>

namespace myemb::cuda {
namespace {

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
    return visit_width<T>(args.rows, out, [&]<int N>() {
      if (!args.maxima.words) return f.template operator()<T, N>(reader_of<T, N>(args.rows));
      constexpr int kMaxColumns =
          N * sizeof(T) == kAccessBytes ? N : std::min(N, 2);  // fewer kernels
      return f.template operator()<T, kMaxColumns>(
          WhereMax<T, kMaxColumns>{reader_of<T, kMaxColumns>(args.rows), args.maxima});
    });
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
