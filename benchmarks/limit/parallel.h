// What the loops of the limit share: threads, shares of the work, prefetching.
#pragma once

#include "loops.h"
#include "simd.h"

#include <algorithm>

namespace limit {

struct Range {
  int64_t begin, end;
};

inline Range share(int64_t count, int thread, int threads) {
  return {count * thread / threads, count * (thread + 1) / threads};
}

template <typename F>
void parallel(int threads, const F& f) {
  if (threads == 1) return f(0, 1);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) f(thread, threads);
}

inline void prefetch(const char* row, int64_t bytes) {
  for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b);
}

// The lookups ahead of which a row is asked for. Enough of the narrow ones are under way at 64.
inline int64_t distance_for(int64_t ahead, int64_t row_bytes) {
  return ahead == 0 ? INT64_MAX / 2 : std::clamp<int64_t>(ahead / row_bytes, 1, 64);
}

inline bool can_be_streamed(const void* out, int64_t row_bytes, int64_t vector = kBytes) {
  return reinterpret_cast<uintptr_t>(out) % vector == 0 && row_bytes % vector == 0;
}

}  // namespace limit
