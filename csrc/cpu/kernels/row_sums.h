#pragma once

// The inner loops of a sum: rows of a table whose columns are next to each other, added in
// registers.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/row_access.h>
#include <cpu/kernels/simd.h>

#include <algorithm>

namespace myemb::MYEMB_ISA {

// How far ahead of its use a row is asked for: far enough to hide DRAM, little enough to stay in
// L1.
inline constexpr int64_t kSumPrefetchBytes = 8192;

// A tile of columns of the rows of a table, and what is needed to find them: copies of what the
// call says, which the compiler would otherwise read again after every store.
template <typename T, typename Index, bool kWeighted, int L, int V>
class TileSums {
 public:
  using A = Accumulator<T>;
  using Sum = Vector<A, L>[V];

  MYEMB_INLINE TileSums(const SegmentSum& args, Columns<L, V> columns)
      : table_(static_cast<const T*>(args.rows.data), columns),
        prefetch_(static_cast<const T*>(args.rows.data), columns, args.rows.row_stride * kSize),
        num_rows_(args.rows.count),
        stride_bytes_(args.rows.row_stride * kSize),
        padding_(args.padding_idx),
        weights_(static_cast<const A*>(args.weights)),
        lookups_(args.indices, kAhead),
        bad_(args.bad) {}

  // The lookups [begin, end), chunk by chunk; returns how many were left out. The sums stay in
  // registers from the first row of a chunk to the last.
  MYEMB_INLINE int64_t add_segment(int64_t begin, int64_t end, Sum& sum) {
    const bool is_long = end - begin > kChunk;
    int64_t left_out = 0, chunk_end = is_long ? begin + kChunk : end;
    for (int v = 0; v < V; ++v) sum[v] = Vector<A, L>{};
    for (int64_t i = begin; i < end;) {
      const int64_t stop = lookups_.step_end(i, chunk_end);
      add_rows(i, stop, sum, left_out);
      i = stop;
      if (is_long && i == chunk_end) [[unlikely]] {
        close_chunk(chunk_end == begin + kChunk, i == end, sum);
        chunk_end = std::min(end, chunk_end + kChunk);
      }
    }
    return left_out;
  }

  MYEMB_INLINE void note_bad_index() const {
    if (first_bad_ != BadIndex::kNone) bad_->note(first_bad_);
  }

 private:
  MYEMB_INLINE void add_rows(int64_t begin, int64_t end, Sum& sum, int64_t& left_out) {
    lookups_.step(begin, end, [&](int64_t i, int64_t index, int64_t later) {
      prefetch_.ask(later);
      if (!is_row(index, num_rows_) || index == padding_) [[unlikely]] {
        // Noted at the end: around a call, the sums would go to memory.
        if (!is_row(index, num_rows_)) first_bad_ = std::min(first_bad_, i);
        ++left_out;
        return;
      }
      const auto row = table_.at(index * stride_bytes_);
      for (int v = 0; v < V; ++v) {
        Vector<A, L> x = load<L>(row[v]);
        if constexpr (kWeighted) x = x * weights_[i];
        sum[v] += x;
      }
    });
  }

  // Adds a chunk to those before it: the sum begins again, or is the sum of all of them.
  MYEMB_INLINE void close_chunk(bool is_first, bool is_last, Sum& sum) {
    for (int v = 0; v < V; ++v) {
      if (!is_first) sum[v] = load<L>(total_ + v * L) + sum[v];
      store<L>(total_ + v * L, sum[v]);
      if (!is_last) sum[v] = Vector<A, L>{};
    }
  }

  static constexpr int64_t kSize = sizeof(T);
  static constexpr int64_t kAhead = kSumPrefetchBytes / (V * L * kSize);

  const Tile<const T, L, V> table_;
  const TilePrefetch<T, L, V> prefetch_;
  const int64_t num_rows_;
  const int64_t stride_bytes_;
  const int64_t padding_;
  const A* const weights_;
  const Lookups<Index> lookups_;
  BadIndex* const bad_;
  int64_t first_bad_ = BadIndex::kNone;
  A total_[V * L] = {};  // of a long segment's chunks; in memory, the registers are a chunk's
};

// Sums segments of lookups. `rounded`: the output is of the table's dtype, else of the
// accumulators'.
template <typename T, typename Index, bool kWeighted>
class RowSums {
 public:
  using A = Accumulator<T>;

  RowSums(const SegmentSum& args, bool rounded) : args_(args), rounded_(rounded) {}

  // Returns how many lookups of these segments were left out. The width of a row of one tile is
  // looked at once for all segments, and not for each bag. A wider row is summed segment by
  // segment, so that the next tile finds the rows' pages, and often their lines, at hand.
  int64_t sum(int64_t begin, int64_t end) const {
    const int64_t step = args_.rows.dim <= kTileColumns<A> ? end - begin : 1;
    int64_t left_out = 0;
    for (int64_t s = begin; s < end; s += step) {
      int64_t of_tile = 0;  // every tile finds the same ones
      cover_columns<A>(args_.rows.dim,
                       [&](auto columns) { of_tile = sum_tile(columns, s, s + step); });
      left_out += of_tile;
    }
    return left_out;
  }

 private:
  template <int L, int V>
  [[gnu::noinline]] int64_t sum_tile(Columns<L, V> columns, int64_t begin, int64_t end) const {
    TileSums<T, Index, kWeighted, L, V> tile(args_, columns);
    const Segments segments = args_.segments;
    const int64_t* const out_rows = args_.out_rows;
    const int64_t dim = args_.rows.dim;
    const bool average = args_.average, rounded = rounded_;
    void* const out = args_.out;
    int64_t all_left_out = 0;
    for (int64_t s = begin; s < end; ++s) {
      const int64_t first = segments.begin(s), last = segments.end(s);
      Vector<A, L> sum[V];
      const int64_t left_out = tile.add_segment(first, last, sum);
      const int64_t counted = last - first - left_out;
      if (average && counted > 1) {
        for (int v = 0; v < V; ++v) sum[v] = sum[v] / static_cast<A>(counted);
      }
      const int64_t row = (out_rows ? out_rows[s] : s) * dim;
      if (rounded) {
        const Tile<T, L, V> to(static_cast<T*>(out) + row, columns);
        for (int v = 0; v < V; ++v) store<L>(to[v], sum[v]);
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
};

}  // namespace myemb::MYEMB_ISA
