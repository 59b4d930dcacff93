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

// The run that is being added up. kAverage: it may be divided by its length. If that were asked for
// each run, the question alone would be a quarter of the instructions.
//
// A sink that reads before it writes (an optimizer's) lets finished runs wait until the rows that
// are in flight are added up, at most kRows of them: it then asks for all that it reads at once.
template <typename T, int N, int kRows, bool kAverage, typename Sink>
class OpenRun {
 public:
  using A = Accumulator<T>;

  __device__ OpenRun(const SumOutput<T, Sink>& output, const ThreadGroup& group, int64_t column,
                     bool in_row)
      : output_(output), waiting_(group), column_(column), in_row_(in_row) {}

  // row -1: none.
  __device__ void close_and_open(int64_t row) {
    if (row_ >= 0 && in_row_) {
      A result[N];
      sum_.copy_to(result);
      output_.finish(result, kAverage ? length_ : 1);
      waiting_.add(output_.sink, row_, column_, result);
    }
    sum_.start_again();
    row_ = row;
    length_ = 0;
  }

  __device__ void add(const A (&row)[N], unsigned columns) {
    sum_.add(row, NoWeight{}, columns, 0);
    ++length_;
  }

  // The whole warp calls it.
  __device__ void write_waiting() { waiting_.write_all(output_.sink, column_); }

 private:
  const SumOutput<T, Sink>& output_;
  RunningSum<T, N> sum_;
  typename Sink::template Waiting<N, kRows> waiting_;
  int64_t column_;
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
template <typename T, int N, int kRows, bool kAverage, typename Held, typename Reader,
          typename Sink>
__device__ __forceinline__ void add_to_runs(const Held& held, int at, bool has_weights,
                                            unsigned borders, const Reader& rows, int64_t column,
                                            OpenRun<T, N, kRows, kAverage, Sink>& run) {
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
template <typename Reader, typename Sink>
inline constexpr int kRunBlocks = Sink::kRunBlocks      ? Sink::kRunBlocks
                                  : Reader::kBytes < 16 ? 4
                                                        : 3;

// A group for each window.
template <typename T, int N, bool kAverage, typename Source, typename Reader, typename Sink>
__global__ void __launch_bounds__(kThreads, kRunBlocks<Reader, Sink>)
    reduce_runs(const Shape shape, const Source runs, const Reader rows,
                const SumOutput<T, Sink> output) {
  constexpr int kRows = kRowsInFlight<Reader::kBytes>;
  __shared__ HeldRuns<Reader, Accumulator<T>> held;
  const ThreadGroup group(shape.group_size);
  const bool in_row = shape.column(group, N) < shape.dim;
  const int64_t column = in_row ? shape.column(group, N) : 0;
  const int at = static_cast<int>(threadIdx.x) - group.lane();
  RunWindow window(shape.item(group), runs.total());
  window.find_start(group, runs);
  OpenRun<T, N, kRows, kAverage, Sink> run(output, group, column, in_row);
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
    held.rows[threadIdx.x] = mine ? runs.out_row(step.row) : -1;
    if (runs.weighted()) held.weights[threadIdx.x] = lookup.weight;
    __syncwarp();
#pragma unroll 1
    for (int first = 0; any_in_warp(first < step.count); first += kRows) {
      add_to_runs(held, at + first, runs.weighted(), step.borders >> first, rows, column, run);
      run.write_waiting();
    }
  }
  run.close_and_open(-1);
  run.write_waiting();
}

template <typename T, int N, bool kAverage, typename Source, typename Reader, typename Sink>
int launch_runs(const Source& runs, int64_t num_lookups, const Reader& rows,
                const SumOutput<T, Sink>& output, cudaStream_t stream) {
  const int64_t windows = (num_lookups + kRunWindow - 1) / kRunWindow;
  const int size = group_size_for<T, N>(output.dim);
  return launch_shapes(size, windows, output.dim, N,
                       [&](dim3 grid, unsigned threads, const Shape& shape) {
                         reduce_runs<T, N, kAverage, Source, Reader, Sink>
                             <<<grid, threads, 0, stream>>>(shape, runs, rows, output);
                       });
}

}  // namespace myemb::cuda
