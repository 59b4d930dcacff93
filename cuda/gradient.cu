// group-reduce-apply: the dense gradient of a table is the sum of the output's gradient over the
// lookups of each of its rows.

#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/runs.cuh>

namespace myemb::cuda {
namespace {

// Columns of a thread in mode max: two positions are as much as it can read at once, and of double
// with its position one is as much as fits in the registers.
template <typename T>
constexpr int kMaxColumns = sizeof(T) < sizeof(int64_t) ? 2 : 1;

// Mode max: a lookup adds to the columns whose maximum it was. Rows are read only where that is so:
// elsewhere the very first value is, which costs nothing.
template <typename T, int N>
struct WhereMax : RowReader<T, N> {
  static constexpr int kBytes = (sizeof(T) + sizeof(int64_t)) * N;
  static constexpr bool kSelects = true;

  struct Place {
    const T* row;
    const int64_t* positions;
    int64_t position;
  };

  const int64_t* positions;  // (B, dim)
  int64_t dim;

  template <typename Lookup>
  __device__ Place place(const Lookup& lookup) const {
    return {this->row(lookup.row), positions + lookup.row * dim, lookup.position};
  }

  template <int kRows>
  __device__ void read_batch(const Place* places, int64_t column, Batch<T, N, kRows>& batch) const {
    Word<int64_t, N> maxima[kRows];
#pragma unroll
    for (int u = 0; u < kRows; ++u) maxima[u] = load_word<N>(places[u].positions + column);
    __syncwarp();  // no load is moved past this point
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const Pack<int64_t, N> pack = unpack<int64_t, N>(maxima[u]);
      unsigned columns = 0;
#pragma unroll
      for (int n = 0; n < N; ++n) columns |= (pack.values[n] == places[u].position) << n;
      batch.columns[u] = columns;
      batch.words[u] = this->read(columns ? places[u].row : this->data, columns ? column : 0);
    }
  }
};

template <typename T, int N, typename Reader>
int launch_runs_and_long_sums(const GradientSum& args, const Reader& rows, Stream stream) {
  const int64_t count = args.groups.count;
  const Runs<Accumulator<T>> runs(args);
  const auto output = sum_output<T>(args.out, args.partials, count, args.rows.dim, args.average);
  const int error = launch_runs<T, N>(runs, count, rows, output, stream);
  if (error != cudaSuccess) return error;
  return launch_long_sums<T, N>(runs, count, rows, output, stream);
}

}  // namespace

int launch_gradient_sum(const GradientSum& args, Stream stream) {
  if (args.groups.count == 0) return cudaSuccess;
  return visit(args.rows.dtype, [&]<typename T>(T) {
    if (!args.positions) {
      return visit_width<T>(args.rows, args.out, [&]<int N>() {
        return launch_runs_and_long_sums<T, N>(args, reader_of<T, N>(args.rows), stream);
      });
    }
    const auto launch = [&]<int N>() {
      const WhereMax<T, N> rows{reader_of<T, N>(args.rows), args.positions, args.rows.dim};
      return launch_runs_and_long_sums<T, N>(args, rows, stream);
    };
    if (!is_aligned(args.positions, kAccessBytes)) return launch.template operator()<1>();
    return visit_width<T, kMaxColumns<T>>(args.rows, args.out, launch);
  });
}

}  // namespace myemb::cuda
