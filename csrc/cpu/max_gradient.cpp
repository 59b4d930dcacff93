#include <cpu/max_gradient.h>

#include <cpu/parallel.h>

#include <algorithm>

namespace myemb {
namespace {

// Threads share the columns, in whole cache lines: every sum is one thread's.
constexpr int64_t kColumnsPerLine = 16;

bool is_short(const Segments& segments, int64_t g) {
  return segments.end(g) - segments.begin(g) <= kChunk;
}

// For each lookup of bags the row of the sums that it adds to: that of its group, or
// row_of_group[group]; -1 for those left out and those of a long group.
void fill_sum_rows(const std::vector<MaxScatter>& bags, const RowGroups& groups,
                   const int64_t* row_of_group, int64_t* sum_rows) {
  for (const MaxScatter& some : bags) {  // as if all were left out
    const Segments& of_some = some.segments;
    if (of_some.count == 0) continue;
    std::fill(sum_rows + of_some.begin(0), sum_rows + of_some.end(of_some.count - 1), -1);
  }
  const Segments segments = groups.segments();
  parallel_segments(segments, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t row = row_of_group ? row_of_group[g] : g;
      const int64_t target = is_short(segments, g) ? row : -1;
      for (int64_t i = segments.begin(g); i < segments.end(g); ++i) {
        sum_rows[groups.sources[i]] = target;
      }
    }
  });
}

// Zeros `rows` rows of out but for those of segments.
void zero_rows(SegmentSum sums, int64_t rows, bool but_segments) {
  if (!but_segments) sums.segments.count = 0;
  sums.zeroed_rows = rows;
  zero_gaps(sums);
}

}  // namespace

void sum_maxima(std::vector<MaxScatter> bags, int64_t num_positions, const RowGroups& groups,
                const SegmentSum& sums) {
  const bool rounded = size_of(sums.rows.dtype) == 2;
  const int64_t dim = sums.rows.dim;
  Scratch memory(Scratch::bytes_for<int64_t>(num_positions) +
                 (rounded ? Scratch::bytes_for<float>(groups.count * dim) : 0));
  auto* const sum_rows = memory.take<int64_t>(num_positions);
  fill_sum_rows(bags, groups, rounded ? nullptr : groups.rows, sum_rows);
  if (sums.zeroed_rows > 0) zero_rows(sums, sums.zeroed_rows, /*but_segments=*/rounded);
  void* at = sums.out;
  if (rounded) {
    auto* const exact = memory.take<float>(groups.count * dim);
    const int64_t elements = groups.count * dim;
    parallel_ranges(elements, elements, [&](int64_t begin, int64_t end) {
      std::fill(exact + begin, exact + end, 0.0f);
    });
    at = exact;
  }
  int64_t num_bags = 0;
  for (MaxScatter& some : bags) {
    some.sum_rows = sum_rows;
    some.sums = at;
    num_bags += some.segments.count;
  }
  const int64_t lines = (dim + kColumnsPerLine - 1) / kColumnsPerLine;
  const int64_t parts = std::min(lines, parts_for(num_bags * dim));
  parallel_parts(parts, [&](int64_t part) {
    const auto column = [&](int64_t p) {
      return std::min(dim, p * lines / parts * kColumnsPerLine);
    };
    for (const MaxScatter& some : bags) {
      kernels().max_scatter(some, column(part), column(part + 1));
    }
  });
  if (rounded) {
    const RoundRows args{at, dim, groups.rows, sums.out, sums.rows.dtype};
    parallel_ranges(groups.count, groups.count * dim,
                    [&](int64_t begin, int64_t end) { kernels().round_rows(args, begin, end); });
  }
  for (int64_t g = 0; g < groups.count; ++g) {
    if (!is_short(sums.segments, g)) {
      const int64_t group_lookups = sums.segments.end(g) - sums.segments.begin(g);
      sum_shared_segment(sums, g, parts_for(group_lookups * dim));
    }
  }
}

}  // namespace myemb
