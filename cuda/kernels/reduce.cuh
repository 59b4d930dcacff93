#pragma once

// gather-reduce on the device: every segment's rows, combined in the order of the numbers contract
// (policies/numbers.h) and written once.
//
//   reduce_segments   segments of at most kChunk lookups into the output, chunks of longer ones
//   into
//                     partial rows
//   join_chunks       the partial rows of a long segment, left to right, into the output
//
// A Source (segments.cuh) says which lookups make up an output row, a Reader what they read, a
// Combiner what becomes of it:
//
//   struct Combiner {
//     struct Output;                          // where results go
//     Combiner(const Output&, int64_t column, const Segment&, bool whole);  // false: of a chunk
//     void add(const Pack<T, N>& row, const Lookup& lookup, bool taken);  // the next one, in order
//     void write(int64_t out_row, int counted) const;
//     void write_partial(int64_t slot, int counted) const;
//     static constexpr bool kUsesPosition;    // or only the weight of a lookup
//   };

#include <cuda/kernels/pack.cuh>
#include <cuda/kernels/segments.cuh>

#include <algorithm>

namespace myemb::cuda {

// Rows in flight for each thread: as many bytes as hide the latency of memory, 64 where accesses
// are wide.
template <int kBytes>
inline constexpr int kRowsInFlight = kBytes >= 8 ? 4 : 8;

// N columns of the rows that lookups name.
template <typename T, int N>
struct RowReader {
  static constexpr bool kUsesPosition = false;

  const T* data;
  int64_t row_stride;
  int64_t column_stride;  // not 1 only if N is

  __device__ Pack<T, N> read(int64_t row, int64_t column) const {
    const int64_t offset = N == 1 ? column * column_stride : column;
    return load_pack<N>(data + row * row_stride + offset);
  }

  // Whether these columns of a lookup count.
  __device__ bool takes(int64_t /*row*/, int64_t /*column*/, int64_t /*position*/) const {
    return true;
  }
};

// The kRows lookups from thread `first` of the group on. All rows are asked for before one is used,
// which needs loads without conditions: every lookup has a row to read, and bit j of `taken` says
// whether that of thread j counts.
template <typename T, int N, int kRows, typename Lookup, typename Reader, typename Combiner>
__device__ __forceinline__ void combine_rows(const RowGroup& group, const Lookup& mine,
                                             unsigned taken, int first, const Reader& rows,
                                             int64_t column, Combiner& combiner) {
  Pack<T, N> values[kRows];
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    const int64_t row = group.from(mine.row, first + u);
    if constexpr (Reader::kUsesPosition) {
      const int64_t position = group.from(mine.position, first + u);
      if (!rows.takes(row, column, position)) taken &= ~(1u << (first + u));
    }
    values[u] = rows.read(row, column);
  }
  __syncwarp();  // no load is moved past this point
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    Lookup lookup;
    lookup.weight = group.from(mine.weight, first + u);
    if constexpr (Combiner::kUsesPosition) {
      lookup.row = group.from(mine.row, first + u);
      lookup.position = group.from(mine.position, first + u);
    }
    combiner.add(values[u], lookup, (taken >> (first + u) & 1) != 0);
  }
}

// Hands the lookups of a segment, at most kChunk, to the combiner, in order. Indices are loaded side
// by side, one a thread, checked before any row is asked for (an assertion between two loads would
// make the second wait for it), and passed round. Returns how many were not left out.
//
// A lookup that is left out reads the row of one that is not, or row 0 if there is none: then
// another group of the warp has a lookup, and the table a row.
template <typename T, int N, typename Source, typename Reader, typename Combiner>
__device__ int combine_lookups(const RowGroup& group, const Source& source, const Segment& segment,
                               const Reader& rows, int64_t column, Combiner& combiner) {
  using Lookup = typename Source::Lookup;
  constexpr int kRows = kRowsInFlight<sizeof(T) * N>;
  const int length = static_cast<int>(segment.length());
  const int longest = max_in_warp(length);
  int counted = 0;
  for (int begin = 0; begin < longest; begin += group.size()) {
    const int i = begin + group.lane();
    Lookup mine = i < length ? source.lookup(segment.begin + i) : Lookup{};
    const unsigned taken = group.vote(mine.row >= 0);
    const int64_t some_row = max(group.from(mine.row, max(__ffs(taken) - 1, 0)), int64_t{0});
    if (mine.row < 0) mine.row = some_row;
    counted += __popc(taken);
    const int count = min(longest - begin, group.size());
#pragma unroll 1
    for (int first = 0; first < count; first += kRows) {
      combine_rows<T, N, kRows>(group, mine, taken, first, rows, column, combiner);
    }
  }
  return counted;
}

// How a launch covers its items and columns: threads in x over groups, blocks in y over tiles of
// columns.
struct Shape {
  int group_size;
  int64_t dim;
  int64_t slots;  // chunks of long segments, after the items
};

template <typename T, int N, typename Source, typename Reader, typename Combiner>
__global__ void __launch_bounds__(kThreads)
    reduce_segments(const Shape shape, const Source source, const Reader rows,
                    const typename Combiner::Output output) {
  const RowGroup group(shape.group_size);
  const int64_t tile = int64_t{group.size()} * N;
  for (int64_t left = blockIdx.y * tile; left < shape.dim; left += gridDim.y * tile) {
    const int64_t column = left + group.lane() * N;
    const bool in_row = column < shape.dim;
    const int64_t items = source.count() + shape.slots;
    for (int64_t warp_item = group.first_in_warp(); warp_item < items; warp_item += group.count()) {
      const int64_t item = warp_item + group.in_warp();
      const int64_t slot = item - source.count();
      const bool whole = slot < 0;
      Segment segment = source.segment(item, group);
      if (!whole && item < items) segment = chunk_in(source, slot);
      const bool is_long = segment.length() > kChunk;  // its chunks have slots
      if (is_long) segment.end = segment.begin;
      Combiner combiner(output, column, segment, whole);
      const int counted =
          combine_lookups<T, N>(group, source, segment, rows, in_row ? column : 0, combiner);
      if (!in_row || is_long || item >= items) continue;
      if (segment.length() == 0 && !(whole && Source::kWritesEmpty)) continue;
      if (whole) {
        combiner.write(segment.out_row, counted);
      } else {
        combiner.write_partial(slot, counted);
      }
    }
  }
}

// Threads of a group for each row: as many as its accesses of N values, up to a warp, but no fewer
// than there are rows in flight.
template <typename T, int N>
int group_size_for(int64_t dim) {
  int size = kRowsInFlight<sizeof(T) * N>;
  while (size < kWarp && static_cast<int64_t>(size) * N < dim) size *= 2;
  return size;
}

// A block for each kThreads / group_size items and each tile of columns, up to what a grid can
// have; the kernels' loops do the rest.
inline dim3 grid_for(int64_t items, int group_size, int64_t tiles = 1) {
  constexpr int64_t kMaxX = 0x7fffffff, kMaxY = 65535;
  const int64_t groups = kThreads / group_size;
  const int64_t blocks = (items + groups - 1) / groups;
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, kMaxX)),
              static_cast<unsigned>(std::clamp<int64_t>(tiles, 1, kMaxY)));
}

template <typename T, int N>
RowReader<T, N> reader_of(const Rows& rows) {
  return {static_cast<const T*>(rows.data), rows.row_stride, rows.column_stride};
}

template <typename T, int N, typename Combiner, typename Source, typename Reader>
int launch_reduce(const Source& source, int64_t items, int64_t num_lookups, int64_t dim,
                  const Reader& rows, const typename Combiner::Output& output,
                  cudaStream_t stream) {
  const int size = group_size_for<T, N>(dim);
  const Shape shape{size, dim, 2 * windows_of(num_lookups)};
  const int64_t tile = static_cast<int64_t>(size) * N;
  const dim3 grid = grid_for(items + shape.slots, size, (dim + tile - 1) / tile);
  reduce_segments<T, N, Source, Reader, Combiner>
      <<<grid, kThreads, 0, stream>>>(shape, source, rows, output);
  return cudaGetLastError();
}

}  // namespace myemb::cuda
