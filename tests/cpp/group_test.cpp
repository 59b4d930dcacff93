// csrc/cpu/group.h: lookups grouped by row are lookups sorted by row, stably.

#include <cpu/group.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "testing.h"

namespace myemb {
namespace {

using testing::Threads;

constexpr int64_t kNoPadding = -1;

// One row for each counter of a thread; and more than lookups, which are sorted then.
constexpr int64_t kFewRows = 10, kManyRows = 1 << 20;

template <typename Index>
Indices view_of(const std::vector<Index>& lookups) {
  return {lookups.data(), sizeof(Index) == sizeof(int64_t), static_cast<int64_t>(lookups.size())};
}

template <typename Index>
std::vector<Index> draw(int64_t count, int64_t num_rows) {
  std::mt19937_64 generator(count + num_rows);
  // Half of the lookups in a few rows, so that rows are long as well as short.
  std::uniform_int_distribution<int64_t> any(0, num_rows - 1),
      few(0, std::min<int64_t>(3, num_rows) - 1);
  std::vector<Index> lookups(count);
  for (auto& lookup : lookups)
    lookup = static_cast<Index>(generator() % 2 ? few(generator) : any(generator));
  return lookups;
}

template <typename Index>
void expect_sorted(const std::vector<Index>& lookups, int64_t num_rows, int64_t padding_idx) {
  SCOPED_TRACE(
      c10::str(lookups.size(), " lookups, ", num_rows, " rows, padding_idx ", padding_idx));
  std::vector<int64_t> positions(lookups.size());
  std::iota(positions.begin(), positions.end(), 0);
  std::erase_if(positions, [&](int64_t i) { return lookups[i] == padding_idx; });
  std::stable_sort(positions.begin(), positions.end(),
                   [&](int64_t a, int64_t b) { return lookups[a] < lookups[b]; });

  const RowGroups groups = group_by_row({view_of(lookups), num_rows, padding_idx}, "embedding");
  ASSERT_EQ(groups.lookups, static_cast<int64_t>(positions.size()));
  EXPECT_TRUE(std::equal(positions.begin(), positions.end(), groups.sources));
  EXPECT_EQ(groups.starts[0], 0);
  EXPECT_EQ(groups.starts[groups.count], groups.lookups);
  for (int64_t g = 0; g < groups.count; ++g) {
    ASSERT_LT(groups.starts[g], groups.starts[g + 1]);
    if (g > 0) {
      ASSERT_LT(groups.rows[g - 1], groups.rows[g]);
    }
    for (int64_t i = groups.starts[g]; i < groups.starts[g + 1]; ++i) {
      ASSERT_EQ(lookups[groups.sources[i]], groups.rows[g]);
    }
  }
}

TEST(GroupByRow, SortsLikeStableSort) {
  for (const int count_of_threads : {1, 4}) {
    const Threads threads(count_of_threads);
    for (const int64_t count : {0, 1, 2, 255, 256, 257, 5000, 200000}) {
      for (const int64_t num_rows : {1, 2, 3, 256, 2047, 2048, 5000, 1 << 20}) {
        expect_sorted(draw<int64_t>(count, num_rows), num_rows, kNoPadding);
        expect_sorted(draw<int32_t>(count, num_rows), num_rows, 0);
        expect_sorted(draw<int32_t>(count, num_rows), num_rows, num_rows - 1);
      }
    }
  }
}

TEST(GroupByRow, RowsBeyond32Bits) {
  const int64_t num_rows = int64_t{1} << 40;
  expect_sorted(draw<int64_t>(1000, num_rows), num_rows, 1);
}

// Where the lookups come from, in place of their positions: `step` sources for each lookup, or
// lookups that share one. The last source is the greatest that there is room for.
void expect_sources(int64_t count, int64_t num_rows, int64_t padding_idx, double step) {
  SCOPED_TRACE(c10::str(count, " lookups, ", num_rows, " rows, padding_idx ", padding_idx, ", ",
                        step, " sources each"));
  const auto lookups = draw<int64_t>(count, num_rows);
  std::vector<int64_t> sources(count);
  for (int64_t i = 0; i < count; ++i)
    sources[i] = static_cast<int64_t>(static_cast<double>(i) * step);
  const RowGroups positions = group_by_row({view_of(lookups), num_rows, padding_idx}, "embedding");
  const RowGroups groups = group_by_row(
      {view_of(lookups), num_rows, padding_idx, sources.data(), sources.back() + 1}, "embedding");
  ASSERT_EQ(groups.count, positions.count);
  ASSERT_EQ(groups.lookups, positions.lookups);
  EXPECT_TRUE(std::equal(groups.rows, groups.rows + groups.count, positions.rows));
  EXPECT_TRUE(std::equal(groups.starts, groups.starts + groups.count + 1, positions.starts));
  int64_t wrong = 0;
  for (int64_t i = 0; i < groups.lookups; ++i) {
    wrong += groups.sources[i] != sources[positions.sources[i]];
  }
  EXPECT_EQ(wrong, 0);
}

TEST(GroupByRow, CarriesSources) {
  for (const int count_of_threads : {1, 4}) {
    const Threads threads(count_of_threads);
    for (const int64_t count : {20, 300, 100000}) {
      for (const int64_t num_rows : {kFewRows, kManyRows}) {
        for (const int64_t padding_idx : {kNoPadding, int64_t{1}}) {
          for (const double step : {0., 0.3, 1., 1000.}) {
            expect_sources(count, num_rows, padding_idx, step);
          }
        }
      }
    }
  }
}

TEST(GroupByRow, NothingButPadding) {
  for (const int count_of_threads : {1, 4}) {
    const Threads threads(count_of_threads);
    for (const int64_t num_rows : {kFewRows, kManyRows}) {
      const std::vector<int64_t> lookups(100000, 7);
      const RowGroups groups = group_by_row({view_of(lookups), num_rows, 7}, "embedding");
      EXPECT_EQ(groups.count, 0);
      EXPECT_EQ(groups.lookups, 0);
    }
  }
}

TEST(GroupByRow, RefusesAnIndexOutOfRange) {
  for (const int64_t num_rows : {kFewRows, kManyRows}) {
    for (const int64_t count : {10, 100000}) {
      for (const int64_t bad : {int64_t{-1}, num_rows, INT64_MIN, INT64_MAX}) {
        std::vector<int64_t> lookups(count, 3);
        lookups[count - 2] = bad;
        EXPECT_THROW(group_by_row({view_of(lookups), num_rows, kNoPadding}, "embedding"),
                     c10::IndexError);
      }
    }
  }
}

}  // namespace
}  // namespace myemb
