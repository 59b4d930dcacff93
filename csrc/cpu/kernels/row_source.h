#pragma once

// The gather half of a sum: where the row of a lookup is, or null if it is left out.

#include <cpu/kernels/row_list.h>

namespace myemb::MYEMB_ISA {

// Rows of a table whose columns are next to each other, straight from the indices. Bounds are
// checked and later rows prefetched where the row is read, so a lookup is touched once for each
// tile of columns.
template <typename T, typename Index>
struct TableRows {
  using A = Accumulator<T>;

  const T* table;
  int64_t num_rows;
  int64_t row_stride;
  const Index* indices;
  int64_t num_lookups;
  int64_t padding_idx;
  const A* weights;
  BadIndex* bad;

  // The row of lookup i, of which the caller will read the kElements from column on.
  template <int kElements>
  MYEMB_INLINE const T* row(int64_t i, int64_t column) const {
    constexpr int64_t kBytes = kElements * static_cast<int64_t>(sizeof(T));
    constexpr int64_t kAhead = kPrefetchBytes / kBytes;
    if (i + kAhead < num_lookups) {
      prefetch_row(table + column, indices[i + kAhead], row_stride * sizeof(T), kBytes);
    }
    const int64_t index = indices[i];
    if (!is_row(index, num_rows)) {
      bad->note(i);
      return nullptr;
    }
    return index == padding_idx ? nullptr : table + index * row_stride;
  }

  MYEMB_INLINE A weight(int64_t i) const { return weights[i]; }
};

// Rows that a RowGatherer has listed: those of a table with strided columns, packed.
template <typename T>
struct ListedRows {
  using A = Accumulator<T>;

  const RowList<T>& list;

  template <int kElements>
  MYEMB_INLINE const T* row(int64_t i, int64_t /*column*/) const {
    return list.rows[i];
  }

  MYEMB_INLINE A weight(int64_t i) const { return list.weights[i]; }
};

}  // namespace myemb::MYEMB_ISA
