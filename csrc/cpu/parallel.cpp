#include <cpu/parallel.h>

#include <cpu/tensors.h>
#include <myemb/ops.h>

#include <pthread.h>
#include <sys/stat.h>

#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace myemb {
namespace {

// Before a fork(): whether there are other threads, or nobody knows.
bool has_other_threads() {
  struct stat tasks;  // a folder with one for each thread, beside itself and its parent
  return stat("/proc/self/task", &tasks) != 0 || tasks.st_nlink > 3;
}

std::atomic<bool> forks_with_threads{false};

int watch_forks() noexcept {
  return pthread_atfork([] { forks_with_threads = has_other_threads(); }, nullptr,
                        [] { lost_threads = lost_threads || forks_with_threads; });
}
[[maybe_unused]] const int watches_forks = watch_forks();

// What the segments before s cost: a unit for each lookup read and one for each row written.
int64_t cost_before(const Segments& segments, int64_t s) {
  if (segments.count == 0) return 0;
  return s + (s < segments.count ? segments.begin(s) : segments.end(s - 1)) - segments.begin(0);
}

int64_t total_cost(const Segments& segments) { return cost_before(segments, segments.count); }

// The first segment before which the others cost so much.
int64_t segment_at_cost(const Segments& segments, int64_t cost, int64_t low = 0) {
  int64_t high = segments.count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (cost_before(segments, middle) < cost) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The borders of `parts` ranges of segments of about equal cost: parts + 1 numbers from 0 to count.
std::vector<int64_t> balanced_borders(const Segments& segments, int64_t parts) {
  std::vector<int64_t> borders(parts + 1, 0);
  const int64_t cost = total_cost(segments);
  for (int64_t part = 1; part < parts; ++part) {
    borders[part] = segment_at_cost(segments, part * cost / parts, borders[part - 1]);
  }
  borders[parts] = segments.count;
  return borders;
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

// One row, the chunks of its sum shared by so many threads.
void update_shared_segment(const SegmentUpdate& work, int64_t segment, int64_t threads) {
  SegmentSum sums = work.sums;
  RowUpdate update = work.update;
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

// What the partition has to know of each kind of work, and how to run a range of its segments or
// one of them with several threads.
const SegmentSum* as_sum(const SegmentWork& work) { return std::get_if<SegmentSum>(&work); }
const SegmentMax* as_max(const SegmentWork& work) { return std::get_if<SegmentMax>(&work); }
const SegmentDot* as_dot(const SegmentWork& work) { return std::get_if<SegmentDot>(&work); }
const SegmentUpdate* as_update(const SegmentWork& work) {
  return std::get_if<SegmentUpdate>(&work);
}

const Segments& segments_of(const SegmentWork& work) {
  if (const SegmentSum* const sum = as_sum(work)) return sum->segments;
  if (const SegmentMax* const max = as_max(work)) return max->segments;
  if (const SegmentDot* const dot = as_dot(work)) return dot->segments;
  if (const SegmentUpdate* const update = as_update(work)) return update->sums.segments;
  return std::get<BagExpansion>(work).segments;
}

int64_t dim_of(const SegmentWork& work) {
  if (const SegmentSum* const sum = as_sum(work)) return sum->rows.dim;
  if (const SegmentMax* const max = as_max(work)) return max->rows.dim;
  if (const SegmentDot* const dot = as_dot(work)) return dot->dots.left.dim;
  if (const SegmentUpdate* const update = as_update(work)) return update->sums.rows.dim;
  return std::get<BagExpansion>(work).rows.dim;
}

// Whether its segments can be cut.
bool is_reduction(const SegmentWork& work) {
  return as_sum(work) || as_max(work) || as_update(work);
}

int64_t elements_of(const SegmentWork& work) {
  return total_cost(segments_of(work)) * dim_of(work);
}

int64_t zeroed_elements(const SegmentWork& work) {
  const SegmentSum* const sum = as_sum(work);
  return sum ? sum->zeroed_rows * sum->rows.dim : 0;
}

// Whether a segment may be more than a kernel can number.
bool is_too_long(const SegmentWork& work) {
  return as_max(work) && total_cost(segments_of(work)) > kMaxPart;
}

void run_range(const SegmentWork& work, int64_t begin, int64_t end) {
  if (const SegmentSum* const sum = as_sum(work)) {
    kernels().segment_sum(*sum, begin, end);
  } else if (const SegmentMax* const max = as_max(work)) {
    kernels().segment_max(*max, begin, end);
  } else if (const SegmentUpdate* const update = as_update(work)) {
    kernels().segment_update(update->sums, update->update, begin, end);
  } else if (const SegmentDot* const dot = as_dot(work)) {
    if (begin == end) return;
    kernels().row_dot(dot->dots, dot->segments.begin(begin), dot->segments.end(end - 1));
  } else {
    kernels().expand_bags(std::get<BagExpansion>(work), begin, end);
  }
}

void run_segment(const SegmentWork& work, int64_t segment, int64_t threads) {
  if (const SegmentSum* const sum = as_sum(work)) {
    sum_shared_segment(*sum, segment, threads);
  } else if (const SegmentMax* const max = as_max(work)) {
    max_of_shared_segment(*max, segment, threads);
  } else {
    update_shared_segment(std::get<SegmentUpdate>(work), segment, threads);
  }
}

// The gaps between segments in a part of the elements of all outs. A row is in the part that has
// its first element.
void zero_gaps_of_part(c10::ArrayRef<SegmentWork> works, int64_t part, int64_t parts) {
  int64_t all = 0, before = 0;
  for (const SegmentWork& work : works) all += zeroed_elements(work);
  for (const SegmentWork& work : works) {
    const int64_t elements = zeroed_elements(work);
    if (elements == 0) continue;
    const SegmentSum& sum = std::get<SegmentSum>(work);
    const auto row_at = [&](int64_t element) {
      const int64_t in_work = std::clamp<int64_t>(element - before, 0, elements);
      return (in_work + sum.rows.dim - 1) / sum.rows.dim;
    };
    const int64_t begin = row_at(part * all / parts), end = row_at((part + 1) * all / parts);
    const int64_t* const rows_end = sum.out_rows + sum.segments.count;
    const int64_t* const row = std::lower_bound(sum.out_rows, rows_end, begin);
    if (begin < end) kernels().zero_gaps(sum, begin, end, row - sum.out_rows);
    before += elements;
  }
}

// A segment of one of several works.
struct Place {
  size_t work;
  int64_t segment;
  auto operator<=>(const Place&) const = default;
};

// Which segments each part has, and which are shared by all of them.
class Shares {
 public:
  Shares(c10::ArrayRef<SegmentWork> works, int64_t parts)
      : works_(works), costs_(works.size() + 1, 0), borders_(parts + 1) {
    for (size_t w = 0; w < works.size(); ++w) costs_[w + 1] = costs_[w] + elements_of(works[w]);
    borders_[0] = {0, 0};
    borders_[parts] = {works.size() - 1, segments_of(works.back()).count};
    for (int64_t part = 1; part < parts; ++part) borders_[part] = border(part);
    for (size_t w = 0; w < works.size(); ++w) add_too_long(w);
    for (int64_t part = 1; part < parts; ++part) add_long(borders_[part]);
    std::sort(shared_.begin(), shared_.end());
    shared_.erase(std::unique(shared_.begin(), shared_.end()), shared_.end());
  }

  const std::vector<Place>& shared() const { return shared_; }

  // Runs the segments of a part but for shared ones.
  void run(int64_t part) const {
    const Place first = borders_[part], last = borders_[part + 1];
    for (size_t w = first.work; w <= last.work; ++w) {
      int64_t begin = w == first.work ? first.segment : 0;
      const int64_t end = w == last.work ? last.segment : segments_of(works_[w]).count;
      for (const Place& place : shared_) {
        if (place.work != w || place.segment < begin || place.segment >= end) continue;
        run_some(w, begin, place.segment);
        begin = place.segment + 1;
      }
      run_some(w, begin, end);
    }
  }

 private:
  int64_t parts() const { return static_cast<int64_t>(borders_.size()) - 1; }

  void run_some(size_t work, int64_t begin, int64_t end) const {
    if (begin < end) run_range(works_[work], begin, end);
  }

  // Where a part begins, so that all parts cost about the same.
  Place border(int64_t part) const {
    const int64_t cost = part * costs_.back() / parts();
    const auto next = std::upper_bound(costs_.begin(), costs_.end() - 1, cost);
    const size_t work = static_cast<size_t>(next - costs_.begin()) - 1;
    const int64_t dim = std::max<int64_t>(dim_of(works_[work]), 1);
    const int64_t rest = (cost - costs_[work] + dim - 1) / dim;
    return {work, segment_at_cost(segments_of(works_[work]), rest)};
  }

  // The segment before a border, if it is worth sharing. One longer than a part's share always
  // lies across a border.
  void add_long(Place border) {
    const SegmentWork& work = works_[border.work];
    const int64_t s = border.segment - 1;
    if (s < 0 || !is_reduction(work)) return;
    const int64_t lookups = segments_of(work).end(s) - segments_of(work).begin(s);
    const bool is_long =
        lookups > 2 * kChunk && lookups * dim_of(work) > costs_.back() / (2 * parts());
    if (is_long) shared_.push_back({border.work, s});
  }

  void add_too_long(size_t work) {
    if (!is_too_long(works_[work])) return;
    for (const int64_t s : segments_longer_than(segments_of(works_[work]), kMaxPart)) {
      shared_.push_back({work, s});
    }
  }

  const c10::ArrayRef<SegmentWork> works_;
  std::vector<int64_t> costs_;  // of the works before each
  std::vector<Place> borders_;
  std::vector<Place> shared_;
};

void run_shared(c10::ArrayRef<SegmentWork> works, int64_t parts) {
  const Shares shares(works, parts);
  parallel_parts(parts, [&](int64_t part) {
    zero_gaps_of_part(works, part, parts);
    shares.run(part);
  });
  for (const Place& place : shares.shared()) run_segment(works[place.work], place.segment, parts);
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
  const SegmentWork work = args;
  const int64_t parts = parts_for(args.zeroed_rows * args.rows.dim);
  parallel_parts(parts, [&](int64_t part) { zero_gaps_of_part(work, part, parts); });
}

void run_segments(c10::ArrayRef<SegmentWork> works) {
  int64_t elements = 0;
  bool too_long = false;
  for (const SegmentWork& work : works) {
    elements += elements_of(work) + zeroed_elements(work);
    too_long = too_long || is_too_long(work);
  }
  const int64_t parts = parts_for(elements);
  if (parts > 1 || too_long) return run_shared(works, parts);
  zero_gaps_of_part(works, 0, 1);
  for (const SegmentWork& work : works) run_range(work, 0, segments_of(work).count);
}

void run_segment_sum(const SegmentSum& args) { run_segments(SegmentWork(args)); }

void run_segment_max(const SegmentMax& args) { run_segments(SegmentWork(args)); }

void run_segment_update(const SegmentSum& sums, const RowUpdate& update) {
  run_segments(SegmentWork(SegmentUpdate{sums, update}));
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
