#pragma once

// How the work of one call is shared among threads. The results do not depend on it: see
// policies/numbers.h.

#include <cpu/kernels/kernels.h>

#include <ATen/Parallel.h>
#include <c10/util/ArrayRef.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <variant>

namespace myemb {

// The least number of elements that are worth a thread: ATen's grain size.
inline constexpr int64_t kGrain = 32768;

// Set in the child of a fork() where there were several threads: those of OpenMP are lost then, and
// a parallel region would wait for them for ever, as PyTorch's own operators do.
inline std::atomic<bool> lost_threads{false};

// Into how many parts work of so many elements is worth splitting: at most one for each thread, and
// one inside another parallel region.
inline int64_t parts_for(int64_t elements) {
  if (elements < 2 * kGrain || at::in_parallel_region() || lost_threads) return 1;
  return std::min<int64_t>(at::get_num_threads(), elements / kGrain);
}

// Runs f(part) for every part, each in a thread of its own if there are as many.
template <typename F>
void parallel_parts(int64_t parts, const F& f) {
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) f(part);
  };
  if (parts == 1 || lost_threads) return run(0, parts);
  at::parallel_for(0, parts, 1, run);
}

// Runs f(begin, end) over [0, count) in equal parts, given how many elements they stand for in all.
template <typename F>
void parallel_ranges(int64_t count, int64_t elements, const F& f) {
  const int64_t parts = parts_for(elements);
  parallel_parts(parts, [&](int64_t part) { f(part * count / parts, (part + 1) * count / parts); });
}

// Updates the rows of segments by their sums. Where the sums go is not looked at: they stay in the
// caches.
struct SegmentUpdate {
  SegmentSum sums;
  RowUpdate update;
};

// Dot products of the lookups of segments.
struct SegmentDot {
  RowDot dots;
  Segments segments;
};

using SegmentWork = std::variant<SegmentSum, SegmentMax, BagExpansion, SegmentDot, SegmentUpdate>;

// Runs kernels over all their segments, in one parallel region, in parts of about as many elements.
// A segment so long that it would hold up the others is shared afterwards; in a sum, cut at chunk
// borders.
void run_segments(c10::ArrayRef<SegmentWork> works);

// The same for one kernel.
void run_segment_sum(const SegmentSum& args);
void run_segment_max(const SegmentMax& args);
void run_segment_update(const SegmentSum& sums, const RowUpdate& update);

// Sets the rows of out between those of segments to zero (SegmentSum::zeroed_rows).
void zero_gaps(const SegmentSum& args);

// One segment of a sum, its chunks shared by so many threads.
void sum_shared_segment(const SegmentSum& args, int64_t segment, int64_t threads);

// Runs f(begin, end) over ranges of segments that hold about as many lookups each.
void parallel_segments(const Segments& segments, int64_t elements_per_lookup,
                       const std::function<void(int64_t, int64_t)>& f);

}  // namespace myemb
