#pragma once

// The sum of a segment's rows: bags of mode sum and mean, and every dense gradient.

#include <cuda/kernels/reduce.cuh>

namespace myemb::cuda {

template <typename T>
struct SumOutput {
  using A = Accumulator<T>;

  T* out;
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

template <typename T, int N>
class Sum {
 public:
  using A = Accumulator<T>;
  using Output = SumOutput<T>;
  static constexpr int kBlocksPerSm = 4;

  __device__ Sum(const Output& output, int64_t column, const Segment& /*segment*/, bool /*whole*/)
      : output_(output), column_(column) {}

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

  __device__ void write(int64_t out_row, int counted) const {
    A result[N];
#pragma unroll
    for (int n = 0; n < N; ++n) result[n] = sum_[n];
    output_.finish(result, counted);
    store_narrowed<T>(output_.out + out_row * output_.dim + column_, result);
  }

  __device__ void write_partial(int64_t slot, int counted) const {
    Pack<A, N> pack;
#pragma unroll
    for (int n = 0; n < N; ++n) pack.values[n] = sum_[n];
    store_pack(output_.partials + slot * output_.dim + column_, pack);
    if (column_ == 0) output_.counts[slot] = counted;
  }

 private:
  const Output& output_;
  int64_t column_;
  A sum_[N] = {};
};

// Joins the chunks of long segments: a group for each window of lookups, a thread for each column.
template <typename T, typename Source>
__global__ void __launch_bounds__(kThreads)
    join_sums(const Shape shape, const Source source, const SumOutput<T> output) {
  using A = Accumulator<T>;
  constexpr int kInFlight = 8;
  const ThreadGroup group(shape.group_size);
  const int64_t column = shape.column(group, 1);
  const Segment segment =
      found_once(shape, group, [&](int64_t window) { return long_segment_from(source, window); });
  if (segment.length() == 0 || column >= shape.dim) return;
  A sum[1] = {};
  int64_t counted = 0;
#pragma unroll 1
  for (int64_t begin = segment.begin; begin < segment.end; begin += kInFlight * kChunk) {
    A parts[kInFlight] = {};
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t chunk = begin + u * kChunk;
      if (chunk >= segment.end) continue;
      const int64_t slot = slot_of(chunk, chunk == segment.begin);
      parts[u] = output.partials[slot * output.dim + column];
      counted += output.counts[slot];
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) sum[0] += parts[u];
  }
  output.finish(sum, counted);
  output.out[segment.out_row * output.dim + column] = narrow<T>(sum[0]);
}

inline size_t sum_slot_bytes(int64_t dim, Dtype dtype) {
  return (dtype == Dtype::Double ? sizeof(double) : sizeof(float)) * dim + sizeof(int64_t);
}

// Counts first: they keep the rows behind them aligned.
template <typename T>
SumOutput<T> sum_output(void* out, void* partials, int64_t num_lookups, int64_t dim, bool average) {
  auto* counts = static_cast<int64_t*>(partials);
  auto* rows = reinterpret_cast<Accumulator<T>*>(counts + 2 * windows_of(num_lookups));
  return {static_cast<T*>(out), rows, counts, dim, average};
}

// The chunks of long segments, and what they add up to.
template <typename T, int N, typename Source, typename Reader>
int launch_long_sums(const Source& source, int64_t num_lookups, const Reader& rows,
                     const SumOutput<T>& output, cudaStream_t stream) {
  const int64_t dim = output.dim;
  const int error = launch_chunks<T, N, Sum<T, N>>(source, num_lookups, dim, rows, output, stream);
  if (error != cudaSuccess) return error;
  const int size = group_size_for<T, 1>(dim);
  const int64_t windows = windows_of(num_lookups);
  return launch_shapes(size, windows, dim, 1, [&](dim3 grid, unsigned threads, const Shape& shape) {
    join_sums<T, Source><<<grid, threads, 0, stream>>>(shape, source, output);
  });
}

}  // namespace myemb::cuda
