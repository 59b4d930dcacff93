#pragma once

// The gather half of gather-reduce: turns up to kChunk lookups into a list of row pointers, with
// bounds checked, padding left out and the rows of later lookups prefetched. What comes after knows
// no indices.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/row_access.h>
#include <cpu/kernels/simd.h>

#include <memory>

namespace myemb::MYEMB_ISA {

// How far ahead of its use a row is asked for: far enough to hide DRAM, little enough to stay in
// L1.
inline constexpr int64_t kPrefetchBytes = 8192;

template <typename T>
struct RowList {
  int count = 0;
  const T* rows[kChunk];
  Accumulator<T> weights[kChunk];  // written only if there are weights
  int64_t lookups[kChunk];         // the position of each row's lookup
};

// Reads one row after another for the chunks of one call. A table whose columns are not next to
// each other is packed row by row into a buffer of a chunk's size.
template <typename T>
class RowGatherer {
 public:
  using A = Accumulator<T>;

  RowGatherer(const Rows& rows, const Indices& indices, const void* weights, int64_t padding_idx,
              BadIndex* bad)
      : rows_(rows),
        indices_(indices),
        weights_(static_cast<const A*>(weights)),
        padding_idx_(padding_idx),
        bad_(bad) {
    if (rows.column_stride != 1) packed_.reset(new T[kChunk * rows.dim]);
    const int64_t row_bytes = rows.dim * static_cast<int64_t>(sizeof(T));
    prefetched_bytes_ = row_bytes < kPrefetchBytes ? row_bytes : kPrefetchBytes;
    ahead_ = row_bytes < kPrefetchBytes ? kPrefetchBytes / (row_bytes + 1) + 1 : 1;
  }

  // Lists the rows of lookups [begin, end), at most kChunk of them.
  void gather(int64_t begin, int64_t end, RowList<T>& list) {
    if (indices_.is_int64) {
      gather_from(static_cast<const int64_t*>(indices_.data), begin, end, list);
    } else {
      gather_from(static_cast<const int32_t*>(indices_.data), begin, end, list);
    }
  }

 private:
  template <typename Index>
  void gather_from(const Index* indices, int64_t begin, int64_t end, RowList<T>& list) {
    const T* table = static_cast<const T*>(rows_.data);
    const int64_t stride_bytes = rows_.row_stride * static_cast<int64_t>(sizeof(T));
    int count = 0;
    for (int64_t i = begin; i < end; ++i) {
      if (i + ahead_ < indices_.count) {
        prefetch_row(table, indices[i + ahead_], stride_bytes, prefetched_bytes_);
      }
      const int64_t index = indices[i];
      if (!is_row(index, rows_.count)) {
        bad_->note(i);
        continue;
      }
      if (index == padding_idx_) continue;
      const T* row = table + index * rows_.row_stride;
      list.rows[count] = packed_ ? pack(row, count) : row;
      if (weights_) list.weights[count] = weights_[i];
      list.lookups[count] = i;
      ++count;
    }
    list.count = count;
  }

  const T* pack(const T* row, int slot) {
    T* to = packed_.get() + slot * rows_.dim;
    for (int64_t d = 0; d < rows_.dim; ++d) to[d] = row[d * rows_.column_stride];
    return to;
  }

  const Rows rows_;
  const Indices indices_;
  const A* weights_;
  const int64_t padding_idx_;
  BadIndex* bad_;
  int64_t prefetched_bytes_;
  int64_t ahead_;
  std::unique_ptr<T[]> packed_;
};

}  // namespace myemb::MYEMB_ISA
