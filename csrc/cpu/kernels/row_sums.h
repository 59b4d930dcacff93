#pragma once

// The inner loops of a sum: rows added in registers.

#include <cpu/kernels/row_tiles.h>

namespace myemb::MYEMB_ISA {

// A dense gradient is mostly zeros, beside what is read: those of 25 MB took half of the time past
// the caches.
inline constexpr int64_t kStreamZeroBytes = int64_t{12} << 20;

// Rows of an output that do not follow each other are asked for so many segments ahead: the
// processor sees only what goes on without gaps.
inline constexpr int64_t kOutAhead = 8;

// Elements from one row of the output to the next.
MYEMB_INLINE int64_t out_stride(const SegmentSum& args) {
  return args.out_stride ? args.out_stride : args.rows.dim;
}

MYEMB_INLINE bool is_streamed(const SegmentSum& args) {
  const int64_t row_bytes = args.rows.dim * size_of(args.rows.dtype);
  if (row_bytes % kLineBytes != 0) return false;
  if (args.zeroed_rows == 0) {
    return is_streamed(args.out, args.segments.count, out_stride(args) * size_of(args.rows.dtype));
  }
  return is_streamed(args.out, args.zeroed_rows, row_bytes, kStreamZeroBytes);
}

// The sums of a tile of columns.
template <typename T, typename Index, bool kWeighted, int L, int V>
class TileSums {
 public:
  using A = Accumulator<T>;
  using Sum = Vector<A, L>[V];

  MYEMB_INLINE TileSums(const SegmentSum& args, Columns<L, V> columns) : rows_(args, columns) {}

  // The lookups [begin, end), chunk by chunk; returns how many were left out. The sums stay in
  // registers from the first row of a chunk to the last.
  MYEMB_INLINE int64_t add_segment(int64_t begin, int64_t end, Sum& sum) {
    const bool is_long = end - begin > kChunk;
    int64_t left_out = 0, chunk_end = is_long ? begin + kChunk : end;
    for (int v = 0; v < V; ++v) sum[v] = Vector<A, L>{};
    for (int64_t i = begin; i < end;) {
      const int64_t stop = rows_.lookups().step_end(i, chunk_end);
      rows_.lookups().step(i, stop, [&](int64_t at, int64_t index, int64_t later) {
        if (!rows_.counts(at, index, later, left_out)) return;
        const auto row = rows_.row(index);
        for (int v = 0; v < V; ++v) sum[v] += rows_.value(row, v, at);
      });
      i = stop;
      if (is_long && i == chunk_end) [[unlikely]] {
        close_chunk(chunk_end == begin + kChunk, i == end, sum);
        chunk_end = std::min(end, chunk_end + kChunk);
      }
    }
    return left_out;
  }

  MYEMB_INLINE void note_bad_index() const { rows_.note_bad_index(); }

 private:
  // Adds a chunk to those before it: the sum begins again, or is the sum of all of them.
  MYEMB_INLINE void close_chunk(bool is_first, bool is_last, Sum& sum) {
    for (int v = 0; v < V; ++v) {
      if (!is_first) sum[v] = load<L>(total_ + v * L) + sum[v];
      store<L>(total_ + v * L, sum[v]);
      if (!is_last) sum[v] = Vector<A, L>{};
    }
  }

  TileRows<T, Index, kWeighted, L, V> rows_;
  A total_[V * L] = {};  // of a long segment's chunks; in memory, the registers are a chunk's
};

// Sums segments of lookups. `rounded`: the output is of the table's dtype, else of the
// accumulators'.
template <typename T, typename Index, bool kWeighted>
class RowSums {
 public:
  using A = Accumulator<T>;

  RowSums(const SegmentSum& args, bool rounded)
      : args_(args), rounded_(rounded), streamed_(rounded && is_streamed(args)) {}

  // Returns how many lookups were left out, if it is one segment.
  int64_t sum(int64_t begin, int64_t end) const {
    int64_t left_out = 0;
    for_tiles<A>(args_.rows.dim, begin, end, [&](auto columns, int64_t first, int64_t last) {
      left_out = sum_tile(columns, first, last);  // every tile finds the same
    });
    if (streamed_) finish_streaming();
    return left_out;
  }

 private:
  template <int L, int V>
  [[gnu::noinline]] int64_t sum_tile(Columns<L, V> columns, int64_t begin, int64_t end) const {
    TileSums<T, Index, kWeighted, L, V> tile(args_, columns);
    const Segments segments = args_.segments;
    const int64_t* const out_rows = args_.out_rows;
    const int64_t stride = out_stride(args_);
    const bool average = args_.average, rounded = rounded_, streamed = streamed_;
    void* const out = args_.out;
    const bool apart = stride != args_.rows.dim && rounded && !streamed;
    const TilePrefetch<T, L, V> later_out(static_cast<T*>(out), columns, stride * sizeof(T));
    int64_t all_left_out = 0;
    for (int64_t s = begin; s < end; ++s) {
      if (apart) later_out.ask(s + kOutAhead);
      const int64_t first = segments.begin(s), last = segments.end(s);
      Vector<A, L> sum[V];
      const int64_t left_out = tile.add_segment(first, last, sum);
      const int64_t counted = last - first - left_out;
      if (average && counted > 1) {
        for (int v = 0; v < V; ++v) sum[v] = sum[v] / static_cast<A>(counted);
      }
      const int64_t row = (out_rows ? out_rows[s] : s) * stride;
      if (rounded) {
        const Tile<T, L, V> to(static_cast<T*>(out) + row, columns);
        for (int v = 0; v < V; ++v) {
          streamed ? stream<L>(to[v], sum[v]) : store<L>(to[v], sum[v]);
        }
      } else {
        const Tile<A, L, V> to(static_cast<A*>(out) + row, columns);
        for (int v = 0; v < V; ++v) store<L>(to[v], sum[v]);
      }
      all_left_out += left_out;
    }
    tile.note_bad_index();
    return all_left_out;
  }

  const SegmentSum& args_;
  const bool rounded_;
  const bool streamed_;
};

}  // namespace myemb::MYEMB_ISA
