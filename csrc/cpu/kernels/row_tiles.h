#pragma once

// The gather half of gather-reduce: one row after another of a table whose columns are next to each
// other, a tile of columns at a time, with bounds checked, padding left out and the rows of later
// lookups asked for. What comes after knows no indices.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/row_access.h>
#include <cpu/kernels/simd.h>

#include <algorithm>

namespace myemb::MYEMB_ISA {

// Holds copies of what the call says, which the compiler would otherwise read again after every
// store.
template <typename T, typename Index, bool kWeighted, int L, int V>
class TileRows {
 public:
  using A = Accumulator<T>;

  // `Args` is SegmentSum or SegmentMax.
  template <typename Args>
  MYEMB_INLINE TileRows(const Args& args, Columns<L, V> columns)
      : table_(static_cast<const T*>(args.rows.data), columns),
        prefetch_(static_cast<const T*>(args.rows.data), columns, args.rows.row_stride * kSize),
        num_rows_(args.rows.count),
        stride_bytes_(args.rows.row_stride * kSize),
        padding_(args.padding_idx),
        weights_(static_cast<const A*>(args.weights)),
        lookups_(args.indices, kAhead),
        bad_(args.bad) {}

  // Of the vectors of a row.
  using Row = Tile<const T, L, V>;

  const Lookups<Index>& lookups() const { return lookups_; }

  // What a loop over lookups() does first: asks for the row of the later one, and returns whether
  // this one counts; if not, it is noted and adds to left_out. (A loop in here that calls one out
  // there would be nicer to read. GCC then keeps sums in memory.)
  MYEMB_INLINE bool counts(int64_t i, int64_t index, int64_t later, int64_t& left_out) {
    prefetch_.ask(later);
    if (is_row(index, num_rows_) && index != padding_) [[likely]]
      return true;
    // Noted at the end: around a call, what is in registers would go to memory.
    if (!is_row(index, num_rows_)) first_bad_ = std::min(first_bad_, i);
    ++left_out;
    return false;
  }

  MYEMB_INLINE Row row(int64_t index) const { return table_.at(index * stride_bytes_); }

  // The v-th vector of a row, times the weight of lookup i.
  MYEMB_INLINE Vector<A, L> value(const Row& row, int v, int64_t i) const {
    Vector<A, L> x = load<L>(row[v]);
    if constexpr (kWeighted) x = x * weights_[i];
    return x;
  }

  MYEMB_INLINE void note_bad_index() const {
    if (first_bad_ != BadIndex::kNone) bad_->note(first_bad_);
  }

 private:
  static constexpr int64_t kSize = sizeof(T);
  static constexpr int64_t kAhead = kPrefetchBytes / (V * L * kSize);

  const Tile<const T, L, V> table_;
  const TilePrefetch<T, L, V> prefetch_;
  const int64_t num_rows_;
  const int64_t stride_bytes_;
  const int64_t padding_;
  const A* const weights_;
  const Lookups<Index> lookups_;
  BadIndex* const bad_;
  int64_t first_bad_ = BadIndex::kNone;
};

// Calls f(Index{}, whether there are weights as std::bool_constant) for what a call has.
template <typename Args, typename F>
MYEMB_INLINE decltype(auto) visit_lookups(const Args& args, const F& f) {
  const auto with_weights = [&](auto weighted) {
    return args.indices.is_int64 ? f(int64_t{}, weighted) : f(int32_t{}, weighted);
  };
  return args.weights ? with_weights(std::true_type{}) : with_weights(std::false_type{});
}

}  // namespace myemb::MYEMB_ISA
