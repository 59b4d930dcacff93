#pragma once

// A step of an optimizer: what becomes of a finished sum, and a kernel for gradients that need
// none.

#include <cuda/kernels/rule_kernels.h>
#include <policies/optimizers.h>
#include <cuda/kernels/runs.cuh>
#include <cuda/kernels/table_state.cuh>
#include <cuda/kernels/update_width.cuh>
#include <cuda/kernels/weights.cuh>

#include <algorithm>
#include <cmath>

namespace myemb::cuda {

struct SquareRoot {
  __device__ float operator()(float x) const { return sqrtf(x); }
  __device__ double operator()(double x) const { return sqrt(x); }
};

// The sink (sum.cuh) that applies a rule to the row. A row-wise rule finds its states as
// add_mean_squares (update.cu) has left them.
template <typename T, typename Rule, typename Table>
class ApplyRule {
 public:
  using A = Accumulator<T>;
  static constexpr int kRunBlocks = 3;

  // All that is read of N columns of a row, as it comes in.
  template <int N>
  struct Loaded {
    typename Weights<T>::template Loaded<N> weights;
    Word<A, N> states[Rule::kStates + 1];
    A row_state;
  };

  ApplyRule(const Table& table, const UpdateOptions& options, const Rule& rule)
      : table_(table), weights_(options), rule_(rule), gradient_(options) {}

  template <int N>
  __device__ Loaded<N> read(int64_t row, int64_t column) const {
    Loaded<N> loaded;
    loaded.weights = weights_.template read<N>(table_, row, column);
#pragma unroll
    for (int s = 0; s < Rule::kStates; ++s) {
      loaded.states[s] = load_in_place<N>(table_.states(s, row) + table_.begin(row) + column);
    }
    if constexpr (Rule::kRowWise) loaded.row_state = *table_.row_state(row);
    return loaded;
  }

  template <int N>
  __device__ void update(int64_t row, int64_t column, const Loaded<N>& loaded,
                         const A (&gradient)[N]) const {
    A weights[N];
    weights_.template widen<N>(table_, loaded.weights, weights);
    Pack<A, N> states[Rule::kStates + 1];
#pragma unroll
    for (int s = 0; s < Rule::kStates; ++s) states[s] = unpack<A, N>(loaded.states[s]);
    A row_factor = 0;
    if constexpr (Rule::kRowWise) row_factor = rule_.row_factor(loaded.row_state);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const A g = gradient_.prepare(weights[n], gradient[n]);
      weights[n] = gradient_.shrunk(weights[n]);
      A mine[Rule::kStates + 1];
#pragma unroll
      for (int s = 0; s < Rule::kStates; ++s) mine[s] = states[s].values[n];
      rule_.apply(weights[n], g, mine, row_factor, SquareRoot{});
#pragma unroll
      for (int s = 0; s < Rule::kStates; ++s) states[s].values[n] = mine[s];
    }
#pragma unroll
    for (int s = 0; s < Rule::kStates; ++s) {
      store_pack(table_.states(s, row) + table_.begin(row) + column, states[s]);
    }
    weights_.write(table_, row, column, weights);
  }

  template <int N>
  __device__ void write(int64_t row, int64_t column, const A (&sum)[N]) const {
    update(row, column, read<N>(row, column), sum);
  }

  // Sums wait in shared memory, and up to 64 bytes of the table's rows are then read at once.
  template <int N, int kRows>
  class Waiting {
   public:
    __device__ explicit Waiting(const ThreadGroup& group)
        : group_(group.in_block()), is_first_(group.lane() == 0) {}

    __device__ void add(const ApplyRule& /*sink*/, int64_t row, int64_t /*column*/,
                        const A (&sum)[N]) {
      Word<A, N> word;
      memcpy(&word, sum, sizeof(word));
      held().sums[count_][threadIdx.x] = word;
      if (is_first_) held().rows[count_][group_] = row;
      ++count_;
    }

    __device__ void write_all(const ApplyRule& sink, int64_t column) {
      __syncwarp();  // the rows' numbers are there
#pragma unroll 1
      for (int first = 0; any_in_warp(first < count_); first += kAtOnce) {
        Loaded<N> loaded[kAtOnce];
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          if (first + u >= count_) continue;
          loaded[u] = sink.template read<N>(held().rows[first + u][group_], column);
        }
        __syncwarp();  // no load is moved past this point, nor a row's number kept
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          if (first + u >= count_) continue;
          const Pack<A, N> sum = unpack<A, N>(held().sums[first + u][threadIdx.x]);
          sink.update(held().rows[first + u][group_], column, loaded[u], sum.values);
        }
      }
      count_ = 0;
      __syncwarp();  // and have been read
    }

   private:
    // Registers for what is read of a row: so many fit beside the run that is being added up.
    static constexpr int kRegisters =
        ((1 + Rule::kStates) * N + Rule::kRowWise) * static_cast<int>(sizeof(A) / sizeof(float)) +
        (sizeof(T) == 2 && N == 1);
    static constexpr int kToSpare = Rule::kRowWise && sizeof(T) == 8               ? 8
                                    : N == 1 || (Rule::kRowWise && sizeof(T) == 2) ? 12
                                                                                   : 16;
    static constexpr int kAtOnce =
        std::clamp(std::min(kToSpare, Table::kRegistersToSpare) / kRegisters, 1, kRows);
    static constexpr int kSmallestGroup = 4;

    struct Held {
      Word<A, N> sums[kRows][kThreads];
      int64_t rows[kRows][kThreads / kSmallestGroup];
    };

    __device__ static Held& held() {
      __shared__ Held held;
      return held;
    }

    int group_;
    bool is_first_;
    int count_ = 0;
  };

 private:
  Table table_;
  Weights<T> weights_;
  Rule rule_;
  Gradient<A> gradient_;
};

// A group for each row and tile of columns.
template <typename T, int N, typename Sink>
__global__ void __launch_bounds__(kThreads)
    update_rows(const Shape shape, const RowReader<T, N> grads, const Sink sink) {
  const ThreadGroup group(shape.group_size);
  const int64_t row = shape.item(group), column = shape.column(group, N);
  if (row >= shape.items || column >= shape.dim) return;
  const Word<T, N> word = grads.read(grads.row(row), column);
  const auto loaded = sink.template read<N>(row, column);
  Accumulator<T> gradient[N];
  widen_all<T, N>(word, gradient);
  sink.update(row, column, loaded, gradient);
}

template <typename T, typename Rule>
int RuleKernels<T, Rule>::update_all(const DenseUpdate& args, const Rule& rule, Stream stream) {
  using Sink = ApplyRule<T, Rule, OneTable<T>>;
  const TableState& table = args.table;
  const Sink sink(OneTable<T>(table), args.options, rule);
  return visit_update_width<T>(table, args.grad, [&]<int N>() {
    const RowReader<T, N> grads = reader_of<T, N>(args.grad);
    return launch_shapes(group_size_for<T, N>(table.dim), table.num_rows, table.dim, N,
                         [&](dim3 grid, unsigned threads, const Shape& shape) {
                           update_rows<T, N, Sink>
                               <<<grid, threads, 0, stream>>>(shape, grads, sink);
                         });
  });
}

template <typename T, typename Rule>
int RuleKernels<T, Rule>::update_runs(const RowsUpdate& args, const Rule& rule, Stream stream) {
  const GradientSum& sum = args.sum;
  const int64_t count = sum.groups.count;
  const Runs<Accumulator<T>> runs(sum);
  const ApplyRule<T, Rule, OneTable<T>> sink(OneTable<T>(args.table), args.options, rule);
  const auto output = sink_output<T>(sink, sum.partials, count, args.table.dim, sum.average);
  const int error = visit_update_reader<T>(args.table, sum, [&]<int N>(const auto& rows) {
    return launch_runs<T, N, true>(runs, count, rows, output, stream);
  });
  if (error != cudaSuccess) return error;
  return launch_joins(runs, count, output, stream);
}

template <typename T, typename Rule>
int RuleKernels<T, Rule>::update_tables(const TablesRowsUpdate& args, const Rule& rule,
                                        Stream stream) {
  const GradientSum& sum = args.sum.sum;
  const int64_t count = sum.groups.count;
  return for_each_launch(args.sum, [&](auto grouped, size_t first) {
    const auto tables = args.tables.subspan(first, grouped.size());
    const TableRuns<Accumulator<T>> runs(sum, grouped);
    const ApplyRule<T, Rule, ManyTables<T>> sink(ManyTables<T>(tables), args.options, rule);
    const auto output = sink_output<T>(sink, sum.partials, count, sum.rows.dim, sum.average);
    const int error = visit_update_reader<T>(tables, sum, [&]<int N>(const auto& rows) {
      return launch_runs<T, N, true>(runs, count, rows, output, stream);
    });
    if (error != cudaSuccess) return error;
    return launch_joins(runs, count, output, stream);
  });
}

}  // namespace myemb::cuda
