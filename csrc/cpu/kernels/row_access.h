#pragma once

// What every kernel does with an index before it reads a row.

#include <cpu/kernels/simd.h>
#include <policies/views.h>

#include <cstdint>

namespace myemb::MYEMB_ISA {

inline constexpr int64_t kLineBytes = 64;  // of a cache

// How far ahead of its use a row is asked for: far enough to hide DRAM, little enough to stay in
// L1.
inline constexpr int64_t kPrefetchBytes = 8192;

// A result that the last cache cannot hold, 32 MiB of it, is written past the caches, in whole
// lines that need not be read first. Smaller ones are not: in a loop, lookups of 16 MiB took twice
// as long that way with two threads.
inline constexpr int64_t kStreamBytes = int64_t{32} << 20;

// Whether rows written to `out` are written so.
MYEMB_INLINE bool is_streamed(const void* out, int64_t rows, int64_t row_bytes,
                              int64_t from_bytes = kStreamBytes) {
  return rows * row_bytes >= from_bytes && row_bytes % kLineBytes == 0 &&
         reinterpret_cast<uintptr_t>(out) % kLineBytes == 0;
}

MYEMB_INLINE bool is_row(int64_t index, int64_t num_rows) {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(num_rows);
}

// Addresses are integers: that of an index that is not checked yet may be anywhere, and prefetching
// it does no harm.
MYEMB_INLINE void prefetch(uintptr_t address) {
  __builtin_prefetch(reinterpret_cast<const void*>(address));
}

// Asks for `bytes` bytes from base + index * stride_bytes on.
MYEMB_INLINE void prefetch_row(const void* base, int64_t index, int64_t stride_bytes,
                               int64_t bytes) {
  const uintptr_t row = reinterpret_cast<uintptr_t>(base) +
                        static_cast<uintptr_t>(index) * static_cast<uintptr_t>(stride_bytes);
  for (int64_t at = 0; at < bytes; at += kLineBytes) prefetch(row + at);
}

// Asks for a tile of columns of one row after another, line by line. Where the halves overlap, the
// second one is asked for by the last bytes of its lines, so as not to miss the end of a row that
// begins in the middle of a line; where they do not, that would miss a line between them, and the
// next tile asks for the line at the end.
template <typename T, int L, int V>
class TilePrefetch {
 public:
  MYEMB_INLINE TilePrefetch(const T* table, Columns<L, V> columns, int64_t stride_bytes)
      : first_(reinterpret_cast<uintptr_t>(table + columns.first)),
        second_(reinterpret_cast<uintptr_t>(table + columns.second)),
        stride_bytes_(stride_bytes) {
    if (columns.second < columns.first + columns.kHalf * L) second_ += kLineBytes - 1;
  }

  MYEMB_INLINE void ask(int64_t index) const {
    constexpr int64_t kHalfBytes = Columns<L, V>::kHalf * L * sizeof(T);
    const uintptr_t row = static_cast<uintptr_t>(index) * static_cast<uintptr_t>(stride_bytes_);
    for (int64_t at = 0; at < kHalfBytes; at += kLineBytes) prefetch(first_ + row + at);
    if constexpr (V > 1) {
      for (int64_t at = 0; at < kHalfBytes; at += kLineBytes) prefetch(second_ + row + at);
    }
  }

 private:
  uintptr_t first_;
  uintptr_t second_;
  int64_t stride_bytes_;
};

// The lookups of a call, each with the one that is `ahead` after it, whose row is to be asked for.
// The last lookups have none after them and ask for their own rows: as they are walked in a step of
// their own, the others need no comparison, which saves two instructions each.
template <typename Index>
class Lookups {
 public:
  MYEMB_INLINE Lookups(const Indices& indices, int64_t ahead)
      : indices_(static_cast<const Index*>(indices.data)),
        later_(indices_ + ahead),
        border_(indices.count - ahead) {}

  // The end of the step that begins at i, of those on the way to `end`.
  MYEMB_INLINE int64_t step_end(int64_t i, int64_t end) const {
    return i < border_ && border_ < end ? border_ : end;
  }

  // Calls f(i, index, later index) for the lookups [i, end) of a step; there is one at least.
  template <typename F>
  MYEMB_INLINE void step(int64_t i, int64_t end, const F& f) const {
    const Index* const later = i < border_ ? later_ : indices_;
    do {
      f(i, static_cast<int64_t>(indices_[i]), static_cast<int64_t>(later[i]));
    } while (++i != end);
  }

  // The same for any range.
  template <typename F>
  MYEMB_INLINE void each(int64_t begin, int64_t end, const F& f) const {
    for (int64_t i = begin; i < end; i = step_end(i, end)) step(i, step_end(i, end), f);
  }

 private:
  const Index* const indices_;
  const Index* const later_;
  const int64_t border_;
};

}  // namespace myemb::MYEMB_ISA
