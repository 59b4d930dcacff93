#include <cpu/parallel.h>

#include <cpu/tensors.h>
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

// The gaps in a part of the rows of out.
void zero_gaps_of_part(const SegmentSum& args, int64_t part, int64_t parts) {
  if (args.zeroed_rows == 0) return;
  const int64_t begin = part * args.zeroed_rows / parts;
  const int64_t* const rows_end = args.out_rows + args.segments.count;
  const int64_t* const row = std::lower_bound(args.out_rows, rows_end, begin);
  kernels().zero_gaps(args, begin, (part + 1) * args.zeroed_rows / parts, row - args.out_rows);
}

// What segment_max_part can number.
constexpr int64_t kMaxPart = int64_t{1} << 30;

std::vector<int64_t> segments_longer_than(const Segments& segments, int64_t lookups) {
  std::vector<int64_t> found;
  for (int64_t s = 0; s < segments.count; ++s) {
    if (segments.end(s) - segments.begin(s) > lookups) found.push_back(s);
  }
  return found;
}

// The first of the lookups [begin, end) that is not left out, or end.
int64_t first_counted(const SegmentMax& args, int64_t begin, int64_t end) {
  return visit_indices(args.indices, [&](const auto* indices) {
    const auto counts = [&](int64_t index) {
      return index >= 0 && index < args.rows.count && index != args.padding_idx;
    };
    return std::find_if(indices + begin, indices + end, counts) - indices;
  });
}

void max_of_shared_segment(const SegmentMax& args, int64_t segment, int64_t threads) {
  const int64_t begin = args.segments.begin(segment), lookups = args.segments.end(segment) - begin;
  const int64_t parts = std::max(threads, (lookups + kMaxPart - 1) / kMaxPart);
  const int64_t dim = args.rows.dim, row_bytes = dim * (args.rows.dtype == Dtype::Double ? 8 : 4);
  const auto best = std::make_unique_for_overwrite<char[]>(parts * row_bytes);
  const auto positions = std::make_unique_for_overwrite<int64_t[]>(parts * dim);
  const int64_t start = first_counted(args, begin, begin + lookups);
  const auto border = [&](int64_t part) { return begin + part * lookups / parts; };
  int64_t first = -1;  // the part that starts the segment
  for (int64_t part = 0; part < parts; ++part) {
    if (border(part) <= start && start < border(part + 1)) first = part;
  }
  parallel_parts(parts, [&](int64_t part) {
    kernels().segment_max_part(args, border(part), border(part + 1), part == first,
                               best.get() + part * row_bytes, positions.get() + part * dim);
  });
  kernels().segment_max_combine(args, segment, best.get(), positions.get(), first, parts);
}

// Which segments each part has, and which are shared by all of them.
struct Shares {
  Shares(const Segments& segments, int64_t parts)
      : borders(balanced_borders(segments, parts)), shared(long_segments(segments, borders)) {}

  // Runs first(part) and then range(begin, end) for the segments of a part between shared ones.
  template <typename First, typename Range>
  void run(const First& first, const Range& range) const {
    parallel_parts(static_cast<int64_t>(borders.size()) - 1, [&](int64_t part) {
      first(part);
      int64_t begin = borders[part];
      for (const int64_t s : shared) {
        if (s < begin || s >= borders[part + 1]) continue;
        range(begin, s);
        begin = s + 1;
      }
      range(begin, borders[part + 1]);
    });
  }

  std::vector<int64_t> borders;
  std::vector<int64_t> shared;
};

// One row, the chunks of its sum shared by so many threads.
void update_shared_segment(SegmentSum sums, RowUpdate update, int64_t segment, int64_t threads) {
  const auto sum = std::make_unique_for_overwrite<double[]>(sums.rows.dim);
  sums.segments.starts += segment;
  sums.segments.starts_count = 2;
  sums.segments.count = 1;
  sums.out_rows = nullptr;
  sums.exact = true;
  sums.out = sum.get();
  sum_shared_segment(sums, 0, threads);
  update.grads = sum.get();
  update.exact = true;
  update.rows += segment;
  update.rows_end = 1;
  kernels().row_update(update, 0, 1);
}

}  // namespace

void sum_shared_segment(const SegmentSum& args, int64_t segment, int64_t threads) {
  const int64_t lookups = args.segments.end(segment) - args.segments.begin(segment);
  const int64_t chunks = (lookups + kChunk - 1) / kChunk;
  const int64_t row_bytes = args.rows.dim * (args.rows.dtype == Dtype::Double ? 8 : 4);
  const auto partials = std::make_unique_for_overwrite<char[]>(chunks * row_bytes);
  std::vector<int64_t> counted(chunks);
  parallel_parts(threads, [&](int64_t part) {
    for (int64_t c = part * chunks / threads; c < (part + 1) * chunks / threads; ++c) {
      counted[c] = kernels().segment_sum_chunk(args, segment, c, partials.get() + c * row_bytes);
    }
  });
  int64_t total = 0;
  for (const int64_t n : counted) total += n;
  kernels().segment_sum_combine(args, segment, partials.get(), chunks, total);
}

void parallel_segments(const Segments& segments, int64_t elements_per_lookup,
                       const std::function<void(int64_t, int64_t)>& f) {
  const int64_t parts = parts_for(total_cost(segments) * elements_per_lookup);
  if (parts == 1) return f(0, segments.count);
  const auto borders = balanced_borders(segments, parts);
  parallel_parts(parts, [&](int64_t part) { f(borders[part], borders[part + 1]); });
}

void zero_gaps(const SegmentSum& args) {
  const int64_t parts = parts_for(args.zeroed_rows * args.rows.dim);
  parallel_parts(parts, [&](int64_t part) { zero_gaps_of_part(args, part, parts); });
}

void run_segment_sum(const SegmentSum& args) {
  const int64_t parts = parts_for((total_cost(args.segments) + args.zeroed_rows) * args.rows.dim);
  if (parts == 1) {
    zero_gaps_of_part(args, 0, 1);
    return kernels().segment_sum(args, 0, args.segments.count);
  }
  const Shares shares(args.segments, parts);
  shares.run([&](int64_t part) { zero_gaps_of_part(args, part, parts); },
             [&](int64_t begin, int64_t end) { kernels().segment_sum(args, begin, end); });
  for (const int64_t s : shares.shared) sum_shared_segment(args, s, parts);
}

void run_segment_update(const SegmentSum& sums, const RowUpdate& update) {
  const int64_t parts = parts_for(total_cost(sums.segments) * sums.rows.dim);
  if (parts == 1) return kernels().segment_update(sums, update, 0, sums.segments.count);
  const Shares shares(sums.segments, parts);
  shares.run(
      [](int64_t) {},
      [&](int64_t begin, int64_t end) { kernels().segment_update(sums, update, begin, end); });
  for (const int64_t s : shares.shared) update_shared_segment(sums, update, s, parts);
}

void run_segment_max(const SegmentMax& args) {
  const int64_t parts = parts_for(total_cost(args.segments) * args.rows.dim);
  const bool too_long = args.segments.total > kMaxPart;  // perhaps for a kernel
  if (parts == 1 && !too_long) return kernels().segment_max(args, 0, args.segments.count);
  Shares shares(args.segments, parts);
  if (too_long) shares.shared = segments_longer_than(args.segments, kMaxPart);
  shares.run([](int64_t) {},
             [&](int64_t begin, int64_t end) { kernels().segment_max(args, begin, end); });
  for (const int64_t s : shares.shared) max_of_shared_segment(args, s, parts);
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
