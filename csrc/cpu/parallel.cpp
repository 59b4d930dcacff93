#include <cpu/parallel.h>

#include <myemb/ops.h>

#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace myemb {
namespace {

// What the segments before s cost: a unit for each lookup read and one for each row written.
int64_t cost_before(const Segments& segments, int64_t s) {
  return s + (s < segments.count ? segments.begin(s) : segments.total);
}

int64_t total_cost(const Segments& segments) { return cost_before(segments, segments.count); }

// The borders of `parts` ranges of segments of about equal cost: parts + 1 numbers from 0 to count.
std::vector<int64_t> balanced_borders(const Segments& segments, int64_t parts) {
  std::vector<int64_t> borders(parts + 1, 0);
  const int64_t cost = total_cost(segments);
  for (int64_t part = 1; part <= parts; ++part) {
    int64_t low = borders[part - 1], high = segments.count;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (cost_before(segments, middle) < part * cost / parts) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    borders[part] = low;
  }
  borders[parts] = segments.count;
  return borders;
}

// The segments that are worth sharing among threads, ascending. One longer than a part's share
// always lies across a border.
std::vector<int64_t> long_segments(const Segments& segments, const std::vector<int64_t>& borders) {
  const int64_t parts = static_cast<int64_t>(borders.size()) - 1;
  const int64_t threshold = std::max(2 * kChunk, total_cost(segments) / (2 * parts));
  std::vector<int64_t> found;
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t s = borders[part] - 1;
    if (s < 0 || segments.end(s) - segments.begin(s) <= threshold) continue;
    if (found.empty() || found.back() != s) found.push_back(s);
  }
  return found;
}

void sum_shared_segment(const SegmentSum& args, int64_t segment, int64_t parts) {
  const int64_t lookups = args.segments.end(segment) - args.segments.begin(segment);
  const int64_t chunks = (lookups + kChunk - 1) / kChunk;
  const int64_t row_bytes = args.rows.dim * (args.rows.dtype == Dtype::Double ? 8 : 4);
  const auto partials = std::make_unique_for_overwrite<char[]>(chunks * row_bytes);
  std::vector<int64_t> counted(chunks);
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first * chunks / parts; c < last * chunks / parts; ++c) {
      counted[c] = kernels().segment_sum_chunk(args, segment, c, partials.get() + c * row_bytes);
    }
  });
  int64_t total = 0;
  for (const int64_t n : counted) total += n;
  kernels().segment_sum_combine(args, segment, partials.get(), chunks, total);
}

}  // namespace

void parallel_segments(const Segments& segments, int64_t elements_per_lookup,
                       const std::function<void(int64_t, int64_t)>& f) {
  const int64_t parts = parts_for(total_cost(segments) * elements_per_lookup);
  if (parts == 1) return f(0, segments.count);
  const auto borders = balanced_borders(segments, parts);
  at::parallel_for(0, parts, 1,
                   [&](int64_t first, int64_t last) { f(borders[first], borders[last]); });
}

void run_segment_sum(const SegmentSum& args) {
  const int64_t parts = parts_for(total_cost(args.segments) * args.rows.dim);
  if (parts == 1) return kernels().segment_sum(args, 0, args.segments.count);
  const auto borders = balanced_borders(args.segments, parts);
  const auto shared = long_segments(args.segments, borders);
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    int64_t begin = borders[first];
    for (const int64_t s : shared) {
      if (s < begin || s >= borders[last]) continue;
      kernels().segment_sum(args, begin, s);
      begin = s + 1;
    }
    kernels().segment_sum(args, begin, borders[last]);
  });
  for (const int64_t s : shared) sum_shared_segment(args, s, parts);
}

void run_segment_max(const SegmentMax& args) {
  parallel_segments(args.segments, args.rows.dim,
                    [&](int64_t begin, int64_t end) { kernels().segment_max(args, begin, end); });
}

int64_t count_parallel_threads() {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    const std::lock_guard<std::mutex> lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  return static_cast<int64_t>(seen.size());
}

}  // namespace myemb
