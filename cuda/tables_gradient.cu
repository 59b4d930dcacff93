// group-reduce-apply: the dense gradients of many tables.

#include <cuda/kernels/table_runs.cuh>
#include <cuda/kernels/where_max.cuh>

#include <vector>

namespace myemb::cuda {
namespace {

// Calls f.operator()<T, N>(reader) with the reader of the gradient; `out` as in visit_width.
template <typename F>
int visit_reader(const TablesGradientSum& args, const void* out, const F& f) {
  return visit(args.sum.rows.dtype, [&]<typename T>(T) {
    if (args.sum.maxima.words) return f.template operator()<T, 1>(any_row<T>(args.sum));
    return visit_width<T>(args.sum.rows, out, [&]<int N>() {
      if constexpr (N == 1) {
        return f.template operator()<T, 1>(any_row<T>(args.sum));
      } else {
        return f.template operator()<T, N>(reader_of<T, N>(args.sum.rows));
      }
    });
  });
}

}  // namespace

int launch_tables_chunks(const TablesGradientSum& args, Stream stream) {
  const GradientSum& sum = args.sum;
  const int64_t count = sum.groups.count, dim = sum.rows.dim;
  return visit_reader(args, sum.partials, [&]<typename T, int N>(const auto& rows) {
    const auto output = sum_output<T>(nullptr, sum.partials, count, dim, sum.average);
    return for_each_launch(args, [&](auto tables, size_t /*first*/) {
      const TableRuns<Accumulator<T>> runs(sum, tables);
      return launch_chunks<T, N, Sum<T, N>>(runs, count, dim, rows, output, stream);
    });
  });
}

int launch_tables_gradient_sum(const TablesGradientSum& args, Stream stream) {
  const GradientSum& sum = args.sum;
  const int64_t count = sum.groups.count, dim = sum.rows.dim;
  if (count == 0 || dim == 0) return cudaSuccess;
  if (const int error = launch_tables_chunks(args, stream); error != cudaSuccess) return error;
  const void* const least =
      least_aligned(args.tables, [](const GroupedTable& table) { return table.out; });
  return visit_reader(args, least, [&]<typename T, int N>(const auto& rows) {
    return for_each_launch(args, [&](auto tables, size_t /*first*/) {
      std::vector<void*> out;
      for (const GroupedTable& table : tables) out.push_back(table.out);
      const TableRuns<Accumulator<T>> runs(sum, tables);
      const StoreInTables<T> sink{table_rows<T>(std::span<void* const>(out), dim)};
      const auto output = sink_output<T>(sink, sum.partials, count, dim, sum.average);
      const int error = launch_runs<T, N, false>(runs, count, rows, output, stream);
      if (error != cudaSuccess) return error;
      return launch_joins(runs, count, output, stream);
    });
  });
}

}  // namespace myemb::cuda
