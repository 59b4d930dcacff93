// A step of an optimizer: which kernels it takes, and the one that row-wise rules need before.

#include <cuda/kernels/rule_kernels.h>
#include <policies/optimizers.h>
#include <cuda/kernels/lanes.cuh>
#include <cuda/kernels/sum.cuh>
#include <cuda/kernels/table_state.cuh>
#include <cuda/kernels/update_width.cuh>
#include <cuda/kernels/weights.cuh>

namespace myemb::cuda {
namespace {

// The rows of a dense gradient, as runs of one lookup each.
template <typename A>
class EveryRow {
 public:
  using Lookup = LookupOf<A>;

  explicit EveryRow(int64_t count) : count_(count) {}

  __device__ int64_t total() const { return count_; }
  __device__ bool weighted() const { return false; }
  __device__ bool starts_row(int64_t /*i*/) const { return true; }
  __device__ Segment run_from(int64_t i) const { return {i, i, i + 1}; }
  __device__ Lookup lookup(int64_t i, Faults& /*faults*/) const { return {i, i, A(1)}; }

 private:
  int64_t count_;
};

// Whether all runs of a source are of one lookup.
template <typename Source>
inline constexpr bool kOneLookup = false;
template <typename A>
inline constexpr bool kOneLookup<EveryRow<A>> = true;

// The columns of a row that a thread works on at once: kSteps accesses, kLanes columns apart. One
// behind the end reads the first column, and counts for nothing.
template <int N>
struct Columns {
  static constexpr int kSteps = 4;

  int64_t begin;
  int64_t dim;

  __device__ bool in_row(int step) const { return begin + step * kLanes < dim; }
  __device__ int64_t at(int step) const { return in_row(step) ? begin + step * kLanes : 0; }
};

// Adds up these columns of a run's rows. The whole warp calls it, each group for a run that is not
// empty. As many rows are in flight as fit into registers; most runs have one or two, and where no
// group of the warp has more, none is read in vain.
template <typename T, int N, typename Source, typename Reader>
__device__ __forceinline__ void add_run(const Source& runs, const Segment& run, const Reader& rows,
                                        const Columns<N>& columns,
                                        RunningSum<T, N> (&sums)[Columns<N>::kSteps]) {
  constexpr int kSteps = Columns<N>::kSteps;
  constexpr int kRows = kOneLookup<Source> ? 1 : Reader::kBytes < kAccessBytes ? 4 : 2;
#pragma unroll 1
  for (int64_t i = run.begin; any_in_warp(i < run.end); i += kRows) {
    Batch<T, N, 1> batches[kRows][kSteps];
    Accumulator<T> weights[kRows];
    bool is_wanted[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      is_wanted[r] = any_in_warp(i + r < run.end);
      if (!is_wanted[r]) continue;
      Faults none = 0;
      const auto lookup = runs.lookup(min(i + r, run.end - 1), none);
      const typename Reader::Place places[1] = {rows.place(lookup)};
      weights[r] = lookup.weight;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) rows.read_batch(places, columns.at(s), batches[r][s]);
    }
    __syncwarp();  // no load is moved past this point
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!is_wanted[r]) continue;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        Accumulator<T> row[N];
        widen_all<T, N>(batches[r][s].words[0], row);
        if (runs.weighted()) {
#pragma unroll
          for (int n = 0; n < N; ++n) row[n] *= weights[r];
        }
        const unsigned selected = Reader::kSelects ? batches[r][s].columns[0] : ~0u;
        sums[s].add(row, NoWeight{}, i + r < run.end ? selected : 0, 0);
      }
    }
  }
}

// The sum of the squares of a row's gradient, in the lanes of the numbers contract. The first
// thread of a group gets it.
template <typename T, int N, typename Source, typename Reader, typename Table>
__device__ __forceinline__ Accumulator<T> square_of_run(
    const ThreadGroup& group, const Source& runs, const Segment& run, const Reader& rows,
    const SumOutput<T>& output, const Table& table, const Weights<T>& weights,
    const Gradient<Accumulator<T>>& gradient) {
  using A = Accumulator<T>;
  constexpr int kSteps = Columns<N>::kSteps;
  // Is summed up already, and read in vain.
  const bool is_long = !kOneLookup<Source> && run.length() > kChunk;
  const Segment added{run.out_row, run.begin, is_long ? run.begin + 1 : run.end};
  A lanes[N] = {};
#pragma unroll 1
  for (int64_t left = 0; left < output.dim; left += kSteps * kLanes) {
    const Columns<N> columns{left + group.lane() * N, output.dim};
    RunningSum<T, N> sums[kSteps];
    add_run<T, N>(runs, added, rows, columns, sums);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (!columns.in_row(s)) continue;
      A sum[N];
      sums[s].copy_to(sum);
      if (is_long) {
        join_chunks<T, N, 4>(output, run, columns.at(s), sum);
      } else {
        output.finish(sum, run.length());
      }
      A values[N] = {};
      if (gradient.weight_decay != 0) {
        weights.template widen<N>(
            table, weights.template read<N>(table, run.out_row, columns.at(s)), values);
      }
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const A g = gradient.prepare(values[n], sum[n]);
        lanes[n] = lanes[n] + g * g;
      }
    }
    __syncwarp();
  }
  return join_lanes(group, lanes, A(0), [](A a, A b) { return a + b; });
}

// Takes the mean squares of the rows' gradients into the row-wise states. The gradients are summed
// up here and once more when the rule is applied: with them kept in between there would be as many
// rows of accumulators as lookups.
template <typename T, int N, typename Source, typename Reader, typename Table>
__global__ void __launch_bounds__(kThreads, 2)  // of rows in flight, 128 bytes a thread
    add_mean_squares(const LaneShape shape, const Source runs, const Reader rows,
                     const SumOutput<T> output, const Table table, const Weights<T> weights,
                     const Gradient<Accumulator<T>> gradient,
                     const RowWiseAdagrad<Accumulator<T>> rule) {
  using A = Accumulator<T>;
  __shared__ int64_t held[kThreads];
  const ThreadGroup group(shape.group_size), warp(kWarp);
  int64_t* const firsts = held + (threadIdx.x - warp.lane());
  const int64_t i = warp.first_in_warp() * shape.lookups + warp.lane();
  const bool is_mine = warp.lane() < shape.lookups && i < runs.total();
  const int count = collect(is_mine && runs.starts_row(i), i, firsts);
#pragma unroll 1
  for (int begin = 0; begin < count; begin += shape.groups) {
    const int at = begin + group.in_warp();
    const Segment run = runs.run_from(firsts[min(at, count - 1)]);
    const A square = square_of_run<T, N>(group, runs, run, rows, output, table, weights, gradient);
    if (at < count && group.lane() == 0) {
      A& state = *table.row_state(run.out_row);
      state = rule.updated_row(state, square / static_cast<A>(output.dim));
    }
    __syncwarp();
  }
}

// What a row-wise rule does before the kernels of all rules.
template <typename T, int N, typename Table, typename Source, typename Reader, typename Rule>
int launch_mean_squares(const Table& table, const UpdateOptions& options, const Source& runs,
                        int64_t count, const Reader& rows, const SumOutput<T>& sums,
                        const Rule& rule, Stream stream) {
  using A = Accumulator<T>;
  const LaneShape shape = lane_shape<N>(sums.dim, count);
  add_mean_squares<T, N, Source, Reader, Table>
      <<<grid_for_lookups(count, shape), kThreads, 0, stream>>>(
          shape, runs, rows, sums, table, Weights<T>(options), Gradient<A>(options), rule);
  return cudaGetLastError();
}

template <typename T, typename Rule>
int update_row_states(const DenseUpdate& args, const Rule& rule, Stream stream) {
  const TableState& table = args.table;
  const EveryRow<Accumulator<T>> runs(table.num_rows);
  const auto sums = sum_output<T>(nullptr, nullptr, 0, table.dim, false);
  return visit_update_width<T>(table, args.grad, [&]<int N>() {
    return launch_mean_squares<T, N>(OneTable<T>(table), args.options, runs, table.num_rows,
                                     reader_of<T, N>(args.grad), sums, rule, stream);
  });
}

template <typename T, typename Rule>
int update_row_states(const RowsUpdate& args, const Rule& rule, Stream stream) {
  const TableState& table = args.table;
  const int64_t count = args.sum.groups.count;
  const Runs<Accumulator<T>> runs(args.sum);
  const auto sums = sum_output<T>(nullptr, args.sum.partials, count, table.dim, args.sum.average);
  return visit_update_reader<T>(table, args.sum, [&]<int N>(const auto& rows) {
    return launch_mean_squares<T, N>(OneTable<T>(table), args.options, runs, count, rows, sums,
                                     rule, stream);
  });
}

template <typename T, typename Rule>
int update_row_states(const TablesRowsUpdate& args, const Rule& rule, Stream stream) {
  const GradientSum& sum = args.sum.sum;
  const int64_t count = sum.groups.count;
  const auto sums = sum_output<T>(nullptr, sum.partials, count, sum.rows.dim, sum.average);
  return for_each_launch(args.sum, [&](auto grouped, size_t first) {
    const auto tables = args.tables.subspan(first, grouped.size());
    const TableRuns<Accumulator<T>> runs(sum, grouped);
    return visit_update_reader<T>(tables, sum, [&]<int N>(const auto& rows) {
      return launch_mean_squares<T, N>(ManyTables<T>(tables), args.options, runs, count, rows, sums,
                                       rule, stream);
    });
  });
}

// Calls f.operator()<T>(rule), after the states of rows are up to date.
template <typename Args, typename F>
int visit_rule_of(const Args& args, Dtype dtype, Stream stream, const F& f) {
  return visit(dtype, [&]<typename T>(T) {
    return visit_rule<Accumulator<T>>(args.options, [&]<typename Rule>(const Rule& rule) -> int {
      if constexpr (Rule::kRowWise) {
        const int error = update_row_states<T>(args, rule, stream);
        if (error != cudaSuccess) return error;
      }
      return f.template operator()<T>(rule);
    });
  });
}

}  // namespace

int launch_dense_update(const DenseUpdate& args, Stream stream) {
  if (args.table.num_rows == 0 || args.table.dim == 0) return cudaSuccess;
  return visit_rule_of(args, args.table.dtype, stream,
                       [&]<typename T, typename Rule>(const Rule& rule) {
                         return RuleKernels<T, Rule>::update_all(args, rule, stream);
                       });
}

int launch_rows_update(const RowsUpdate& args, Stream stream) {
  if (args.sum.groups.count == 0 || args.table.dim == 0) return cudaSuccess;
  if (const int error = launch_gradient_chunks(args.sum, stream); error != cudaSuccess) {
    return error;
  }
  return visit_rule_of(args, args.table.dtype, stream,
                       [&]<typename T, typename Rule>(const Rule& rule) {
                         return RuleKernels<T, Rule>::update_runs(args, rule, stream);
                       });
}

int launch_tables_update(const TablesRowsUpdate& args, Stream stream) {
  const GradientSum& sum = args.sum.sum;
  if (sum.groups.count == 0 || sum.rows.dim == 0) return cudaSuccess;
  if (const int error = launch_tables_chunks(args.sum, stream); error != cudaSuccess) return error;
  return visit_rule_of(args, sum.rows.dtype, stream,
                       [&]<typename T, typename Rule>(const Rule& rule) {
                         return RuleKernels<T, Rule>::update_tables(args, rule, stream);
                       });
}

}  // namespace myemb::cuda
