#pragma once

// How many values a thread reads at once: as many as alignment and width of the rows allow.

#include <policies/views.h>
#include <cuda/kernels/pack.cuh>

namespace myemb::cuda {

inline bool is_aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Calls f.operator()<N>() for the largest N such that rows can be read and `out`, contiguous rows
// of the same width, written N values at a time.
template <typename T, int N = kAccessBytes / sizeof(T), typename F>
int visit_width(const Rows& rows, const void* out, const F& f) {
  if constexpr (N == 1) {
    return f.template operator()<1>();
  } else {
    constexpr int64_t kBytes = N * sizeof(T);
    // Four threads for a row are the least: they should all have something to read.
    const bool is_shared = kBytes < kAccessBytes || rows.dim >= 4 * N;
    if (is_shared && rows.column_stride == 1 && rows.dim % N == 0 && rows.row_stride % N == 0 &&
        is_aligned(rows.data, kBytes) && is_aligned(out, kBytes)) {
      return f.template operator()<N>();
    }
    return visit_width<T, N / 2>(rows, out, f);
  }
}

}  // namespace myemb::cuda
