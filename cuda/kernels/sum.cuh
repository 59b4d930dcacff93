#pragma once

// The sum of a segment's rows: bags of mode sum and mean, every dense gradient, and every row that
// an optimizer updates.
//
// A Sink takes the finished sums, each once:
//
//   struct Sink {
//     static constexpr int kRunBlocks;  // of reduce_runs on an SM; 0: what fits without the sink
//     template <int N> void write(int64_t out_row, int64_t column, const A (&sum)[N]) const;
//     template <int N, int kRows> class Waiting;  // of one thread, for reduce_runs (runs.cuh)
//   };

#include <cuda/kernels/reduce.cuh>

namespace myemb::cuda {

// Of a sink whose stores are on their way at once.
template <typename Sink, int N>
struct NoWaiting {
  __device__ explicit NoWaiting(const ThreadGroup& /*group*/) {}
  __device__ void add(const Sink& sink, int64_t out_row, int64_t column,
                      const typename Sink::A (&sum)[N]) {
    sink.write(out_row, column, sum);
  }
  __device__ void write_all(const Sink& /*sink*/, int64_t /*column*/) {}
};

// The sink that rounds a sum and stores it.
template <typename T>
struct StoreRows {
  using A = Accumulator<T>;
  static constexpr int kRunBlocks = 0;

  T* out;
  int64_t dim;

  template <int N>
  __device__ void write(int64_t out_row, int64_t column, const A (&sum)[N]) const {
    store_narrowed<T>(out + out_row * dim + column, sum);
  }

  template <int N, int kRows>
  using Waiting = NoWaiting<StoreRows, N>;
};

template <typename T, typename Sink = StoreRows<T>>
struct SumOutput {
  using A = Accumulator<T>;

  Sink sink;
  A* partials;      // (slots, dim)
  int64_t* counts;  // (slots)
  int64_t dim;
  bool average;

  // A branch, not a choice: a division takes ten instructions.
  template <int N>
  __device__ void finish(A (&sums)[N], int64_t counted) const {
    if (!average || counted <= 1) return;
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] /= static_cast<A>(counted);
  }
};

// N columns of a sum in registers.
template <typename T, int N>
class RunningSum {
 public:
  using A = Accumulator<T>;

  template <typename Weight>
  __device__ void add(const A (&row)[N], Weight weight, unsigned columns, int /*i*/) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const A next = sum_[n] + weighted(row[n], weight);
      sum_[n] = columns >> n & 1 ? next : sum_[n];
    }
  }

  __device__ void start_again() {
#pragma unroll
    for (int n = 0; n < N; ++n) sum_[n] = 0;
  }

  __device__ void copy_to(A (&to)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) to[n] = sum_[n];
  }

 private:
  A sum_[N] = {};
};

template <typename T, int N, typename Sink = StoreRows<T>>
class Sum : public RunningSum<T, N> {
 public:
  using A = Accumulator<T>;
  using Output = SumOutput<T, Sink>;
  static constexpr int kBlocksPerSm = 4;

  __device__ Sum(const Output& output, int64_t column, const Segment& /*segment*/, bool /*whole*/)
      : output_(output), column_(column) {}

  __device__ void write(int64_t out_row, int counted) const {
    A result[N];
    this->copy_to(result);
    output_.finish(result, counted);
    output_.sink.write(out_row, column_, result);
  }

  __device__ void write_partial(int64_t slot, int counted) const {
    Pack<A, N> pack;
    this->copy_to(pack.values);
    store_pack(output_.partials + slot * output_.dim + column_, pack);
    if (column_ == 0) output_.counts[slot] = counted;
  }

 private:
  const Output& output_;
  int64_t column_;
};

// Adds the chunks of a long segment up, and finishes the sum.
template <typename T, int N, int kInFlight, typename Sink>
__device__ __forceinline__ void join_chunks(const SumOutput<T, Sink>& output,
                                            const Segment& segment, int64_t column,
                                            Accumulator<T> (&sum)[N]) {
  using A = Accumulator<T>;
  int64_t counted = 0;
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n] = 0;
#pragma unroll 1
  for (int64_t begin = segment.begin; begin < segment.end; begin += kInFlight * kChunk) {
    A parts[kInFlight][N] = {};
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t chunk = begin + u * kChunk;
      if (chunk >= segment.end) continue;
      const int64_t slot = slot_of(chunk, chunk == segment.begin);
#pragma unroll
      for (int n = 0; n < N; ++n) parts[u][n] = output.partials[slot * output.dim + column + n];
      if (output.average) counted += output.counts[slot];
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
#pragma unroll
      for (int n = 0; n < N; ++n) sum[n] += parts[u][n];
    }
  }
  output.finish(sum, counted);
}

// Joins the chunks of long segments: a group for each window of lookups, a thread for each column.
template <typename T, typename Source, typename Sink>
__global__ void __launch_bounds__(kThreads)
    join_sums(const Shape shape, const Source source, const SumOutput<T, Sink> output) {
  // One long segment may be all that is left to do.
  constexpr int kInFlight = 128 / sizeof(Accumulator<T>);
  const ThreadGroup group(shape.group_size);
  const int64_t column = shape.column(group, 1);
  const Segment segment =
      found_once(shape, group, [&](int64_t window) { return long_segment_from(source, window); });
  if (segment.length() == 0 || column >= shape.dim) return;
  Accumulator<T> sum[1];
  join_chunks<T, 1, kInFlight>(output, segment, column, sum);
  output.sink.write(segment.out_row, column, sum);
}

inline size_t sum_slot_bytes(int64_t dim, Dtype dtype) {
  return (dtype == Dtype::Double ? sizeof(double) : sizeof(float)) * dim + sizeof(int64_t);
}

// Counts first: they keep the rows behind them aligned.
template <typename T, typename Sink>
SumOutput<T, Sink> sink_output(const Sink& sink, void* partials, int64_t num_lookups, int64_t dim,
                               bool average) {
  auto* counts = static_cast<int64_t*>(partials);
  auto* rows = reinterpret_cast<Accumulator<T>*>(counts + 2 * windows_of(num_lookups));
  return {sink, rows, counts, dim, average};
}

// Rows of sums.
template <typename T>
SumOutput<T> sum_output(void* out, void* partials, int64_t num_lookups, int64_t dim, bool average) {
  return sink_output<T>(StoreRows<T>{static_cast<T*>(out), dim}, partials, num_lookups, dim,
                        average);
}

// What the chunks of long segments add up to.
template <typename T, typename Source, typename Sink>
int launch_joins(const Source& source, int64_t num_lookups, const SumOutput<T, Sink>& output,
                 cudaStream_t stream) {
  const int size = group_size_for<T, 1>(output.dim);
  return launch_shapes(size, windows_of(num_lookups), output.dim, 1,
                       [&](dim3 grid, unsigned threads, const Shape& shape) {
                         join_sums<T, Source, Sink>
                             <<<grid, threads, 0, stream>>>(shape, source, output);
                       });
}

// The chunks of long segments, and what they add up to.
template <typename T, int N, typename Source, typename Reader, typename Sink>
int launch_long_sums(const Source& source, int64_t num_lookups, const Reader& rows,
                     const SumOutput<T, Sink>& output, cudaStream_t stream) {
  const int error =
      launch_chunks<T, N, Sum<T, N, Sink>>(source, num_lookups, output.dim, rows, output, stream);
  if (error != cudaSuccess) return error;
  return launch_joins(source, num_lookups, output, stream);
}

}  // namespace myemb::cuda
