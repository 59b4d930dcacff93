#pragma once

// The sums of runs: of the sorted lookups of each table row.
//
// Most runs are of one or two lookups. A group of threads therefore works on a window of
// neighbouring lookups and adds up all runs that start in it, the last one beyond its end. Where
// one run ends and another starts is a bit that is looked at between two additions, so that rows
// are in flight regardless of it, and none is read twice.

#include <cuda/kernels/sum.cuh>

namespace myemb::cuda {

// Lookups of a window: a few less than a warp has threads, so that its last run mostly ends among
// those that are looked at together with it.
inline constexpr int kRunWindow = 28;

// Some lookups of a window, one for each thread of a group.
struct RunStep {
  int64_t lookup;    // this thread's
  int count;         // of lookups that belong to runs of the window: those of the first threads
  unsigned borders;  // bit j: a run starts with the lookup of thread j, or has ended before it
  int64_t row;       // of this thread's lookup
};

// Goes through the lookups of a group's window. Counts from its first lookup: 64 bits for each
// number would be more registers than there are.
class RunWindow {
 public:
  __device__ RunWindow(int64_t window, int64_t total)
      : begin_(window * kRunWindow),
        end_(static_cast<int>(max(min(total - begin_, int64_t{kRunWindow}), int64_t{0}))),
        done_(end_ == 0) {}

  __device__ bool done() const { return done_; }

  // Passes over what is left of a run that another window began. All groups of a warp do this
  // before one of them adds up anything, so that they then go side by side.
  template <typename Source>
  __device__ void find_start(const ThreadGroup& group, const Source& runs) {
    bool found = done_;
#pragma unroll 1
    while (any_in_warp(!found)) {
      const unsigned starts = group.vote(runs.starts_run(begin_ + next_ + group.lane()));
      if (found) continue;
      next_ += starts ? __ffs(static_cast<int>(starts)) - 1 : group.size();
      done_ = next_ >= end_;
      found = starts || done_;
    }
  }

  template <typename Source>
  __device__ RunStep step(const ThreadGroup& group, const Source& runs) {
    const int i = next_ + group.lane();
    const RunBorder border = runs.border(begin_ + i);
    const unsigned starts = group.vote(border.starts);
    const unsigned stops = group.vote(border.starts && (i >= end_ || border.left_out));
    if (done_) return {begin_ + i, 0, ~0u, -1};
    next_ += group.size();
    done_ = stops != 0;
    const int count = stops ? __ffs(static_cast<int>(stops)) - 1 : group.size();
    return {begin_ + i, count, starts, border.row};
  }

 private:
  int64_t begin_;
  int end_;
  int next_ = 0;
  bool done_;
};

// The run that is being added up. kAverage: it is divided by its length. If that were asked for
// each run, the question alone would be a quarter of the instructions.
template <typename T, int N, bool kAverage>
class OpenRun {
 public:
  using A = Accumulator<T>;

  __device__ OpenRun(const SumOutput<T>& output, int64_t column, bool in_row)
      : sum_(output, column, {}, true), in_row_(in_row) {}

  // row -1: none.
  __device__ void close_and_open(int64_t row) {
    if (row_ >= 0 && in_row_) sum_.write(row_, kAverage ? length_ : 1);
    sum_.start_again();
    row_ = row;
    length_ = 0;
  }

  __device__ void add(const A (&row)[N], unsigned columns) {
    sum_.add(row, NoWeight{}, columns, 0);
    ++length_;
  }

 private:
  Sum<T, N> sum_;
  bool in_row_;
  int64_t row_ = -1;
  int length_ = 0;
};

template <typename Reader, typename A>
struct HeldRuns : HeldLookups<Reader, A> {
  int64_t rows[kThreads];  // of the table; -1: not of the window
};

// The kRows lookups from `held` number `at` on; bit u of `borders` says whether another run starts
// with lookup u. What comes behind the window's runs is added to none.
template <int kRows, typename T, int N, bool kAverage, typename Held, typename Reader>
__device__ __forceinline__ void add_to_runs(const Held& held, int at, bool has_weights,
                                            unsigned borders, const Reader& rows, int64_t column,
                                            OpenRun<T, N, kAverage>& run) {
  Batch<T, N, kRows> batch;
  rows.read_batch(held.places + at, column, batch);
  __syncwarp();  // no load is moved past this point
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    if (borders >> u & 1) run.close_and_open(held.rows[at + u]);
    Accumulator<T> row[N];
    widen_all<T, N>(batch.words[u], row);
    if (has_weights) {
#pragma unroll
      for (int n = 0; n < N; ++n) row[n] *= held.weights[at + u];
    }
    run.add(row, Reader::kSelects ? batch.columns[u] : ~0u);
  }
}

// So many blocks fit on an SM without spilled registers.
template <typename Reader>
inline constexpr int kRunBlocks = Reader::kBytes < 16 ? 4 : 3;

// A group for each window.
template <typename T, int N, bool kAverage, typename Source, typename Reader>
__global__ void __launch_bounds__(kThreads, kRunBlocks<Reader>)
    reduce_runs(const Shape shape, const Source runs, const Reader rows,
                const SumOutput<T> output) {
  constexpr int kRows = kRowsInFlight<Reader::kBytes>;
  __shared__ HeldRuns<Reader, Accumulator<T>> held;
  const ThreadGroup group(shape.group_size);
  const bool in_row = shape.column(group, N) < shape.dim;
  const int64_t column = in_row ? shape.column(group, N) : 0;
  const int at = static_cast<int>(threadIdx.x) - group.lane();
  RunWindow window(shape.item(group), runs.total());
  window.find_start(group, runs);
  OpenRun<T, N, kAverage> run(output, column, in_row);
#pragma unroll 1
  while (any_in_warp(!window.done())) {
    const RunStep step = window.step(group, runs);
    const bool mine = group.lane() < step.count;
    Faults none = 0;
    typename Source::Lookup lookup;
    if (mine) lookup = runs.lookup(step.lookup, none);
    // Threads without a lookup read the row of one that has, or any, if none has.
    const int64_t some_row = group.from(lookup.row, 0);
    if (!mine) lookup.row = max(some_row, int64_t{0});
    __syncwarp();  // the lookups before these have been read
    held.places[threadIdx.x] = rows.place(lookup);
    held.rows[threadIdx.x] = mine ? step.row : -1;
    if (runs.weighted()) held.weights[threadIdx.x] = lookup.weight;
    __syncwarp();
#pragma unroll 1
    for (int first = 0; any_in_warp(first < step.count); first += kRows) {
      add_to_runs<kRows, T, N>(held, at + first, runs.weighted(), step.borders >> first, rows,
                               column, run);
    }
  }
  run.close_and_open(-1);
}

template <typename T, int N, typename Source, typename Reader>
int launch_runs(const Source& runs, int64_t num_lookups, const Reader& rows,
                const SumOutput<T>& output, cudaStream_t stream) {
  const auto kernel = output.average ? reduce_runs<T, N, true, Source, Reader>
                                     : reduce_runs<T, N, false, Source, Reader>;
  const int64_t windows = (num_lookups + kRunWindow - 1) / kRunWindow;
  const int size = group_size_for<T, N>(output.dim);
  return launch_shapes(size, windows, output.dim, N,
                       [&](dim3 grid, unsigned threads, const Shape& shape) {
                         kernel<<<grid, threads, 0, stream>>>(shape, runs, rows, output);
                       });
}

}  // namespace myemb::cuda
