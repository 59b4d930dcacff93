#pragma once

// gather-reduce on the device: every segment's rows, combined in the order of the numbers contract
// (policies/numbers.h) and written once.
//
//   reduce_segments   bags of at most kChunk lookups into the output
//   reduce_runs       runs of at most kChunk lookups into the output (runs.cuh)
//   reduce_chunks     chunks of longer ones into partial rows
//   join_...          the partial rows of a long segment, left to right, into the output
//
// A Source (segments.cuh) says which lookups make up an output row, a Reader what they read, a
// Combiner what becomes of it:
//
//   struct Combiner {
//     struct Output;                          // where results go
//     static constexpr int kBlocksPerSm;      // so many fit without spilled registers
//     Combiner(const Output&, int64_t column, const Segment&, bool whole);  // false: of a chunk
//     // The row of the segment's lookup i, in order. Bit n of `columns`: whether value n counts.
//     void add(const A (&row)[N], Weight weight, unsigned columns, int i);
//     void write(int64_t out_row, int counted) const;
//     void write_partial(int64_t slot, int counted) const;
//   };
//
// The loops below are the same for the whole warp, and nothing is called in them: ptxas compiles
// all exchanges between threads twice if it cannot see that the warp is together, and loads rows
// two at a time for want of registers.

#include <cuda/kernels/pack.cuh>
#include <cuda/kernels/segments.cuh>
#include <cuda/kernels/shape.cuh>

namespace myemb::cuda {

// Rows in flight for each thread: as many bytes as hide the latency of memory, 64 where accesses
// are wide.
template <int kBytes>
inline constexpr int kRowsInFlight = kBytes >= 8 ? 4 : 8;

// The same of a chunk, which one group reads alone while others have little to do, or nothing: it
// takes as long as its rows follow each other. Half the blocks of an SM are then as many bytes.
template <int kBytes>
inline constexpr int kChunkRowsInFlight = 2 * kRowsInFlight<kBytes>;
inline constexpr int kChunkBlocksPerSm = 2;

// Rows as they come in: bit n of `columns` says whether value n of a row counts.
template <typename T, int N, int kRows>
struct Batch {
  Word<T, N> words[kRows];
  unsigned columns[kRows];
};

// N columns of the rows that lookups name.
template <typename T, int N>
struct RowReader {
  static constexpr int kBytes = sizeof(T) * N;  // read of each lookup
  static constexpr bool kSelects = false;       // whether some columns of a row may not count
  using Place = const T*;                       // where a lookup reads

  const T* data;
  int64_t row_stride;
  int64_t column_stride;  // not 1 only if N is

  __device__ const T* row(int64_t index) const { return data + index * row_stride; }

  __device__ Word<T, N> read(const T* row, int64_t column) const {
    return load_word<N>(row + (N == 1 ? column * column_stride : column));
  }

  template <typename Lookup>
  __device__ Place place(const Lookup& lookup) const {
    return row(lookup.row);
  }

  template <int kRows>
  __device__ void read_batch(const Place* places, int64_t column, Batch<T, N, kRows>& batch) const {
#pragma unroll
    for (int u = 0; u < kRows; ++u) batch.words[u] = read(places[u], column);
  }
};

// Lookups of each group of a block, as many as it has threads: what one has loaded, all need. They
// are passed round in shared memory because shuffles, three for each row, share the six barriers of
// a warp with the loads: a wait for a shuffle was one for a row.
template <typename Reader, typename A>
struct HeldLookups {
  typename Reader::Place places[kThreads];
  A weights[kThreads];  // if there are any
};

// Stands for a weight of 1: nothing is multiplied.
struct NoWeight {};

__device__ __forceinline__ float weighted(float x, float weight) { return x * weight; }
__device__ __forceinline__ double weighted(double x, double weight) { return x * weight; }
template <typename A>
__device__ __forceinline__ A weighted(A x, NoWeight /*weight*/) {
  return x;
}

// The kRows lookups from `held` number `at` on, the segment's lookups from i on; bit u of `taken`
// says whether lookup u counts. All rows are asked for before one is used, which needs loads
// without conditions, and results that are kept as they come.
template <int kRows, typename T, int N, typename Held, typename Reader, typename Combiner>
__device__ __forceinline__ void combine_rows(const Held& held, int at, bool has_weights,
                                             unsigned taken, int i, const Reader& rows,
                                             int64_t column, Combiner& combiner) {
  Batch<T, N, kRows> batch;
  rows.read_batch(held.places + at, column, batch);
  __syncwarp();  // no load is moved past this point
  const auto combine = [&](const auto& weight_of) {
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      if (!(taken >> u & 1)) continue;
      Accumulator<T> row[N];
      widen_all<T, N>(batch.words[u], row);
      combiner.add(row, weight_of(u), Reader::kSelects ? batch.columns[u] : ~0u, i + u);
    }
  };
  if (has_weights) {
    combine([&](int u) { return held.weights[at + u]; });
  } else {
    combine([](int /*u*/) { return NoWeight{}; });
  }
}

// Hands the lookups of a segment, at most kChunk, to the combiner, in order. Indices are loaded
// side by side, one a thread, and passed round. Returns how many were not left out.
//
// A lookup that is left out reads the row of one that is not, or row 0 if there is none: then
// another group of the warp has a lookup, and the table a row.
template <int kRows, typename T, int N, typename Source, typename Reader, typename Combiner>
__device__ __forceinline__ int combine_lookups(const ThreadGroup& group, const Source& source,
                                               const Segment& segment, const Reader& rows,
                                               int64_t column, Combiner& combiner, Faults& faults) {
  using Lookup = typename Source::Lookup;
  __shared__ HeldLookups<Reader, Accumulator<T>> held;
  const int at = static_cast<int>(threadIdx.x) - group.lane();
  const int length = static_cast<int>(segment.length());
  int counted = 0;
#pragma unroll 1
  for (int begin = 0; any_in_warp(begin < length); begin += group.size()) {
    const int i = begin + group.lane();
    Lookup mine;
    if (i < length) mine = source.lookup(segment.begin + i, faults);
    const unsigned taken = group.vote(mine.row >= 0);
    counted += __popc(taken);
    const int64_t some_row = group.from(mine.row, max(__ffs(taken) - 1, 0));
    if (mine.row < 0) mine.row = max(some_row, int64_t{0});
    __syncwarp();  // the lookups before these have been read
    held.places[threadIdx.x] = rows.place(mine);
    if (source.weighted()) held.weights[threadIdx.x] = mine.weight;
    __syncwarp();
    const int held_here = min(length - begin, group.size());
#pragma unroll 1
    for (int first = 0; any_in_warp(first < held_here); first += kRows) {
      combine_rows<kRows, T, N>(held, at + first, source.weighted(), taken >> first, begin + first,
                                rows, column, combiner);
    }
  }
  return counted;
}

// A group for each bag.
template <typename T, int N, typename Source, typename Reader, typename Combiner>
__global__ void __launch_bounds__(kThreads, Combiner::kBlocksPerSm)
    reduce_segments(const Shape shape, const Source source, const Reader rows,
                    const typename Combiner::Output output) {
  const ThreadGroup group(shape.group_size);
  const int64_t bag = shape.item(group), column = shape.column(group, N);
  const bool in_row = column < shape.dim;
  Faults faults = 0;
  Segment segment = source.segment(bag, faults);
  const Segment whole = segment;
  const bool is_long = segment.length() > kChunk;  // left to reduce_chunks
  if (is_long) segment.end = segment.begin;
  Combiner combiner(output, column, segment, true);
  const int counted = combine_lookups<kRowsInFlight<Reader::kBytes>, T, N>(
      group, source, segment, rows, in_row ? column : 0, combiner, faults);
  source.refuse(faults);
  if (in_row && bag < shape.items && !is_long) combiner.write(source.out_row(bag), counted);
  const bool is_first_tile = column == group.lane() * N;
  if (is_first_tile) source.note_windows(group, bag, whole);
}

// The segment of each item of a block: one thread finds it for all tiles.
template <typename Find>
__device__ __forceinline__ Segment found_once(const Shape& shape, const ThreadGroup& group,
                                              const Find& find) {
  __shared__ Segment found[kThreads];
  const int mine = static_cast<int>(threadIdx.x);
  if (mine < shape.items_per_block) {
    const int64_t item = shape.item_of_block(mine);
    found[mine] = item < shape.items ? find(item) : Segment{0, 0, 0};
  }
  __syncthreads();
  return found[shape.item_in_block(group)];
}

// A group for each slot. Comes after reduce_segments, which has checked the bags and noted which
// are long.
template <typename T, int N, typename Source, typename Reader, typename Combiner>
__global__ void __launch_bounds__(kThreads, kChunkBlocksPerSm)
    reduce_chunks(const Shape shape, const Source source, const Reader rows,
                  const typename Combiner::Output output) {
  const ThreadGroup group(shape.group_size);
  const int64_t slot = shape.item(group), column = shape.column(group, N);
  const bool in_row = column < shape.dim;
  Faults faults = 0;
  const Segment chunk =
      found_once(shape, group, [&](int64_t slot) { return chunk_in(source, slot); });
  Combiner combiner(output, column, chunk, false);
  const int counted = combine_lookups<kChunkRowsInFlight<Reader::kBytes>, T, N>(
      group, source, chunk, rows, in_row ? column : 0, combiner, faults);
  source.refuse(faults);
  if (in_row && chunk.length() > 0) combiner.write_partial(slot, counted);
}

// Threads of a group for each row: as many as its accesses of N values, up to a warp, but no fewer
// than there are rows in flight.
template <typename T, int N, int kRows = kRowsInFlight<sizeof(T) * N>>
int group_size_for(int64_t dim) {
  int size = kRows;
  while (size < kWarp && static_cast<int64_t>(size) * N < dim) size *= 2;
  return size;
}

template <typename T, int N>
RowReader<T, N> reader_of(const Rows& rows) {
  return {static_cast<const T*>(rows.data), rows.row_stride, rows.column_stride};
}

// The chunks of segments that are long, if any can be.
template <typename T, int N, typename Combiner, typename Source, typename Reader>
int launch_chunks(const Source& source, int64_t num_lookups, int64_t dim, const Reader& rows,
                  const typename Combiner::Output& output, cudaStream_t stream) {
  const int size = group_size_for<T, N, kChunkRowsInFlight<sizeof(T) * N>>(dim);
  const int64_t slots = 2 * windows_of(num_lookups);
  return launch_shapes(size, slots, dim, N, [&](dim3 grid, unsigned threads, const Shape& shape) {
    reduce_chunks<T, N, Source, Reader, Combiner>
        <<<grid, threads, 0, stream>>>(shape, source, rows, output);
  });
}

// Bags that are not long, num_bags of each of `features`.
template <typename T, int N, typename Combiner, typename Source, typename Reader>
int launch_segments(const Source& source, int64_t num_bags, int64_t dim, const Reader& rows,
                    const typename Combiner::Output& output, cudaStream_t stream,
                    unsigned features = 1) {
  const int size = group_size_for<T, N>(dim);
  return launch_shapes(size, num_bags, dim, N,
                       [&](dim3 grid, unsigned threads, const Shape& shape) {
                         grid.z = features;
                         reduce_segments<T, N, Source, Reader, Combiner>
                             <<<grid, threads, 0, stream>>>(shape, source, rows, output);
                       });
}

}  // namespace myemb::cuda
