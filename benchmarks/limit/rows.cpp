// Sorting the lookups by row, and renormalising rows.
#include "parallel.h"

#include <cmath>
#include <utility>

namespace limit {
namespace {

constexpr int kDigit = 11, kBuckets = 1 << kDigit;  // the counters of two threads fit into L1

// Rows with their lookups, in two arrays.
struct Pairs {
  uint32_t *rows, *lookups;
};

// One pass of a stable radix sort: every thread counts and then moves its share of the lookups.
void sort_by_digit(Pairs from, Pairs to, int64_t count, int shift, int threads) {
  static int64_t places[64][kBuckets];  // one sort at a time
  const auto digit = [&](int64_t i) { return (from.rows[i] >> shift) % kBuckets; };
  parallel(threads, [&](int thread, int) {
    std::fill_n(places[thread], kBuckets, 0);
    const Range range = share(count, thread, threads);
    for (int64_t i = range.begin; i < range.end; ++i) ++places[thread][digit(i)];
  });
  int64_t before = 0;
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    for (int thread = 0; thread < threads; ++thread) {
      before += std::exchange(places[thread][bucket], before);
    }
  }
  parallel(threads, [&](int thread, int) {
    const Range range = share(count, thread, threads);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t to_place = places[thread][digit(i)]++;
      to.rows[to_place] = from.rows[i];
      to.lookups[to_place] = from.lookups[i];
    }
  });
}

}  // namespace

int64_t group(const int64_t* indices, int64_t count, int64_t num_rows, const Groups& groups,
              uint32_t* scratch, int threads) {
  Pairs from{scratch, scratch + count}, to{scratch + 2 * count, scratch + 3 * count};
  parallel(threads, [&](int thread, int) {
    const Range range = share(count, thread, threads);
    for (int64_t i = range.begin; i < range.end; ++i) {
      from.rows[i] = static_cast<uint32_t>(indices[i]);
      from.lookups[i] = static_cast<uint32_t>(i);
    }
  });
  for (int shift = 0; (num_rows - 1) >> shift; shift += kDigit) {
    sort_by_digit(from, to, count, shift, threads);
    std::swap(from, to);
  }
  int64_t distinct = 0;
  for (int64_t i = 0; i < count; ++i) {
    groups.positions[i] = from.lookups[i];
    if (i > 0 && from.rows[i] == from.rows[i - 1]) continue;
    groups.rows[distinct] = from.rows[i];
    groups.starts[distinct++] = i;
  }
  groups.starts[distinct] = count;
  return distinct;
}

void renorm(float* table, const int64_t* rows, int64_t count, int64_t width, float max_norm,
            Tuning tuning) {
  constexpr int lanes = kLanes<Float>;
  const int64_t distance = distance_for(tuning.ahead, width * 4);
  parallel(tuning.threads, [&](int thread, int threads) {
    const Range range = share(count, thread, threads);
    for (int64_t i = range.begin; i < range.end; ++i) {
      if (i + distance < count) {
        prefetch(reinterpret_cast<const char*>(table + rows[i + distance] * width), width * 4);
      }
      float* row = table + rows[i] * width;
      Floats squares = {};
      int64_t d = 0;
      for (; d + lanes <= width; d += lanes)
        squares += load<Floats>(row + d) * load<Floats>(row + d);
      float sum = 0;
      for (int lane = 0; lane < lanes; ++lane) sum += squares[lane];
      for (; d < width; ++d) sum += row[d] * row[d];
      const float norm = std::sqrt(sum);
      if (norm <= max_norm) continue;
      const float scale = max_norm / (norm + 1e-7f);
      for (d = 0; d + lanes <= width; d += lanes) store(row + d, load<Floats>(row + d) * scale);
      for (; d < width; ++d) row[d] *= scale;
    }
  });
}

}  // namespace limit
