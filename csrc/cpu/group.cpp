#include <cpu/group.h>

#include <cpu/parallel.h>
#include <cpu/tensors.h>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

namespace myemb {
namespace {

// One lookup in 64 bits, row above position. Sorting by row alone keeps positions in input order
// because a radix sort is stable.
struct KeyFormat {
  int row_bits;
  int position_bits;
  uint64_t key(int64_t row, int64_t position) const {
    return static_cast<uint64_t>(row) << position_bits | static_cast<uint64_t>(position);
  }
  int64_t row(uint64_t key) const { return static_cast<int64_t>(key >> position_bits); }
  int64_t position(uint64_t key) const {
    return static_cast<int64_t>(key & ((uint64_t{1} << position_bits) - 1));
  }
};

int bits_of(int64_t count) {
  return static_cast<int>(std::bit_width(static_cast<uint64_t>(count)));
}

using Keys = std::unique_ptr<uint64_t[]>;

// Below this, the histograms of a radix pass cost more than comparing.
constexpr int64_t kComparisonSort = 256;
// 2,048 counters: they stay in L1 beside what they count.
constexpr int kMaxDigitBits = 11;

// Padding lookups get the row after the last, so that they end up behind all others.
template <typename Index>
void fill_keys(const Index* indices, const Indices& lookups, int64_t num_rows, int64_t padding_idx,
               const KeyFormat& format, BadIndex& bad, uint64_t* keys) {
  parallel_ranges(lookups.count, lookups.count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = indices[i];
      if (static_cast<uint64_t>(index) >= static_cast<uint64_t>(num_rows)) bad.note(i);
      keys[i] = format.key(index == padding_idx ? num_rows : index, i);
    }
  });
}

// One stable pass on the digit at `shift`. Every part counts its own range, and the offsets run
// over digits first and parts second, so the result does not depend on how many parts there are.
void radix_pass(const uint64_t* from, uint64_t* to, int64_t count, int shift, int digit_bits,
                int64_t parts) {
  const int64_t buckets = int64_t{1} << digit_bits;
  const uint64_t mask = buckets - 1;
  std::vector<int64_t> offsets(parts * buckets);
  const auto range = [&](int64_t part) { return part * count / parts; };
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      int64_t* histogram = offsets.data() + p * buckets;
      for (int64_t i = range(p); i < range(p + 1); ++i) ++histogram[(from[i] >> shift) & mask];
    }
  });
  int64_t offset = 0;
  for (int64_t digit = 0; digit < buckets; ++digit) {
    for (int64_t p = 0; p < parts; ++p) {
      offset += std::exchange(offsets[p * buckets + digit], offset);
    }
  }
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      int64_t* next = offsets.data() + p * buckets;
      for (int64_t i = range(p); i < range(p + 1); ++i)
        to[next[(from[i] >> shift) & mask]++] = from[i];
    }
  });
}

void sort_keys(Keys& keys, int64_t count, const KeyFormat& format) {
  if (count <= kComparisonSort) {
    std::sort(keys.get(), keys.get() + count);  // positions make every key distinct
    return;
  }
  const int passes = (format.row_bits + kMaxDigitBits - 1) / kMaxDigitBits;
  if (passes == 0) return;
  const int digit_bits = (format.row_bits + passes - 1) / passes;
  const int64_t parts = parts_for(count);
  Keys other = std::make_unique_for_overwrite<uint64_t[]>(count);
  for (int pass = 0; pass < passes; ++pass) {
    radix_pass(keys.get(), other.get(), count, format.position_bits + pass * digit_bits, digit_bits,
               parts);
    std::swap(keys, other);
  }
}

RowGroups groups_of(const uint64_t* keys, int64_t count, int64_t num_rows,
                    const KeyFormat& format) {
  RowGroups groups;
  while (count > 0 && format.row(keys[count - 1]) == num_rows) --count;  // padding
  groups.lookups = count;
  groups.rows = std::make_unique_for_overwrite<int64_t[]>(count);
  groups.starts = std::make_unique_for_overwrite<int64_t[]>(count + 1);
  groups.positions = std::make_unique_for_overwrite<int64_t[]>(count);
  int64_t previous = -1;
  for (int64_t i = 0; i < count; ++i) {
    groups.positions[i] = format.position(keys[i]);
    const int64_t row = format.row(keys[i]);
    if (row == previous) continue;
    groups.rows[groups.count] = previous = row;
    groups.starts[groups.count++] = i;
  }
  groups.starts[groups.count] = count;
  return groups;
}

}  // namespace

RowGroups group_by_row(const Indices& indices, int64_t num_rows, int64_t padding_idx,
                       const char* op) {
  TORCH_CHECK(num_rows >= 0, op, ": num_weights must not be negative, but is ", num_rows);
  const KeyFormat format{bits_of(num_rows), bits_of(indices.count)};
  TORCH_CHECK(format.row_bits + format.position_bits <= 64, op, ": ", indices.count, " lookups in ",
              num_rows, " rows are more than 64 bits can number");
  Keys keys = std::make_unique_for_overwrite<uint64_t[]>(indices.count);
  BadIndex bad;
  visit_indices(indices, [&](const auto* data) {
    fill_keys(data, indices, num_rows, padding_idx, format, bad, keys.get());
  });
  check_lookups(bad, indices, num_rows, op);
  sort_keys(keys, indices.count, format);
  return groups_of(keys.get(), indices.count, num_rows, format);
}

}  // namespace myemb
