// gather-reduce by maximum, with where each maximum came from.

#include <cuda/kernels/check_bags.h>
#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/reduce.cuh>

#include <cmath>

namespace myemb::cuda {
namespace {

template <typename T>
struct MaxOutput {
  using A = Accumulator<T>;

  T* out;
  int64_t* positions;  // null: not wanted
  int64_t dim;
  // Of each chunk of a long bag: its maxima, -inf at position -1 where nothing exceeds -inf, and
  // the position of its first lookup that is not left out, or -1.
  A* partials;                 // (slots, dim)
  int64_t* partial_positions;  // (slots, dim)
  int64_t* first;              // (slots)
};

// Only a greater value replaces one: the first of equals wins, and NaN counts only if the bag
// starts with it. A chunk cannot know whether it starts the bag, since what comes before it may be
// padding. It therefore starts from -inf, which never replaces anything, and remembers its first
// lookup.
template <typename T, int N>
class Max {
 public:
  using A = Accumulator<T>;
  using Output = MaxOutput<T>;
  static constexpr int kBlocksPerSm = 3;

  __device__ Max(const Output& output, int64_t column, const Segment& segment, bool whole)
      : output_(output), column_(column), begin_(segment.begin), whole_(whole) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      best_[n] = whole ? A(0) : -A(INFINITY);
      lookups_[n] = -1;
    }
  }

  template <typename Weight>
  __device__ void add(const A (&row)[N], Weight weight, unsigned /*columns*/, int i) {
    const bool starts = first_ < 0;
    if (starts) first_ = i;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const A value = weighted(row[n], weight);
      const bool replaces = (starts && whole_) || value > best_[n];
      best_[n] = replaces ? value : best_[n];
      lookups_[n] = replaces ? i : lookups_[n];
    }
  }

  __device__ void write(int64_t out_row, int /*counted*/) const {
    const int64_t at = out_row * output_.dim + column_;
    store_narrowed<T>(output_.out + at, best_);
    if (output_.positions) store_positions(output_.positions + at);
  }

  __device__ void write_partial(int64_t slot, int /*counted*/) const {
    const int64_t at = slot * output_.dim + column_;
    Pack<A, N> pack;
#pragma unroll
    for (int n = 0; n < N; ++n) pack.values[n] = best_[n];
    store_pack(output_.partials + at, pack);
    store_positions(output_.partial_positions + at);
    if (column_ == 0) output_.first[slot] = position(first_);
  }

 private:
  __device__ int64_t position(int lookup) const { return lookup < 0 ? -1 : begin_ + lookup; }

  __device__ void store_positions(int64_t* to) const {
    Pack<int64_t, N> pack;
#pragma unroll
    for (int n = 0; n < N; ++n) pack.values[n] = position(lookups_[n]);
    store_pack(to, pack);
  }

  const Output& output_;
  int64_t column_;
  int64_t begin_;
  bool whole_;
  // Lookups are counted from the segment's first; -1: none.
  int first_ = -1;  // not left out
  A best_[N];
  int lookups_[N];  // that gave them
};

// Joins the chunks of long bags: a group for each window of lookups, a thread for each column.
template <typename T, typename Source>
__global__ void __launch_bounds__(kThreads)
    join_maxima(const Shape shape, const Source source, const RowReader<T, 1> rows,
                const MaxOutput<T> output) {
  using A = Accumulator<T>;
  const ThreadGroup group(shape.group_size);
  const int64_t column = shape.column(group, 1);
  const Segment bag =
      found_once(shape, group, [&](int64_t window) { return long_segment_from(source, window); });
  if (bag.length() == 0 || column >= shape.dim) return;
  A best = 0;
  int64_t position = -1;
#pragma unroll 1
  for (int64_t chunk = bag.begin; chunk < bag.end; chunk += kChunk) {
    const int64_t slot = slot_of(chunk, chunk == bag.begin);
    const int64_t first = output.first[slot];
    if (first < 0) continue;
    if (position < 0) {
      Faults none = 0;  // reduce_chunks has read it before
      const LookupOf<A> lookup = source.lookup(first, none);
      const Pack<T, 1> row = unpack<T, 1>(rows.read(rows.row(lookup.row), column));
      best = widen(row.values[0]) * lookup.weight;
      position = first;
    }
    const A candidate = output.partials[slot * output.dim + column];
    if (candidate > best) {
      best = candidate;
      position = output.partial_positions[slot * output.dim + column];
    }
  }
  const int64_t at = bag.out_row * output.dim + column;
  output.out[at] = narrow<T>(best);
  if (output.positions) output.positions[at] = position;
}

template <typename T>
MaxOutput<T> max_output(const BagMax& args, int64_t slots) {
  using A = Accumulator<T>;
  auto* first = static_cast<int64_t*>(args.partials);
  auto* positions = first + slots;  // an even number: rows of positions stay aligned to 16 bytes
  auto* maxima = reinterpret_cast<A*>(positions + slots * args.rows.dim);
  return {static_cast<T*>(args.out), args.positions, args.rows.dim, maxima, positions, first};
}

template <typename T, int N>
int launch_max(const BagMax& args, int64_t num_lookups, Stream stream) {
  const Bags<Accumulator<T>> bags(args.lookups);
  const int64_t windows = windows_of(num_lookups), dim = args.rows.dim;
  const MaxOutput<T> output = max_output<T>(args, 2 * windows);
  const RowReader<T, N> rows = reader_of<T, N>(args.rows);
  int error =
      launch_segments<T, N, Max<T, N>>(bags, args.lookups.bags.count, dim, rows, output, stream);
  if (error != cudaSuccess) return error;
  error = launch_chunks<T, N, Max<T, N>>(bags, num_lookups, dim, rows, output, stream);
  if (error != cudaSuccess) return error;
  return launch_shapes(group_size_for<T, 1>(dim), windows, dim, 1,
                       [&](dim3 grid, unsigned threads, const Shape& shape) {
                         join_maxima<<<grid, threads, 0, stream>>>(
                             shape, bags, reader_of<T, 1>(args.rows), output);
                       });
}

}  // namespace

size_t max_partials_bytes(int64_t num_lookups, int64_t dim, Dtype dtype) {
  const size_t value = dtype == Dtype::Double ? sizeof(double) : sizeof(float);
  return 2 * windows_of(num_lookups) * (sizeof(int64_t) + dim * (value + sizeof(int64_t)));
}

int launch_bag_max(const BagMax& args, Stream stream) {
  const Segments& bags = args.lookups.bags;
  if (bags.count == 0) return cudaSuccess;
  if (has_nothing_to_read(args.rows, args.lookups)) return launch_bags_check(args.lookups, stream);
  const int64_t num_lookups = lookups_in_chunks(args.lookups);
  return visit(args.rows.dtype, [&]<typename T>(T) {
    return visit_width<T>(args.rows, args.out,
                          [&]<int N>() { return launch_max<T, N>(args, num_lookups, stream); });
  });
}

}  // namespace myemb::cuda
