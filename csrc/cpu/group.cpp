#include <cpu/group.h>

#include <cpu/parallel.h>
#include <cpu/tensors.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace myemb {
namespace {

// Counters of 32 bits: those of a pass on 12 bits stay in L1 beside what they count.
using Counter = uint32_t;
constexpr int kMaxDigitBits = 12;

// With so many lookups for each row, rows are counted directly, one counter each: one pass.
constexpr int64_t kLookupsPerCounter = 1;
constexpr int64_t kMaxCounters = int64_t{1} << 17;  // what L2 holds

// Of so few lookups for each row and thread, two cache lines, the threads would write each other's
// lines: 40 Ki lookups of 5,000 rows then took two threads twice as long as one.
constexpr int64_t kLookupsPerThread = 16;

// A lookup costs about as much as four elements of a row (parts_for).
constexpr int64_t kElementsPerLookup = 4;

// How the threads share the lookups: part p has those from begin(p) on, in input order.
struct Parts {
  int64_t count;
  int64_t lookups;
  int64_t begin(int64_t part) const { return part * lookups / count; }

  // Runs f(part, begin, end) for every part.
  template <typename F>
  void run(const F& f) const {
    parallel_parts(count, [&](int64_t part) { f(part, begin(part), begin(part + 1)); });
  }
};

// Turns the counts of every part, `buckets` each, into where its first lookup of a bucket goes: all
// of a bucket's lookups before the next one's, part after part. Calls each(bucket, first, end).
template <typename F>
void places_from_counts(Counter* counts, int64_t parts, int64_t buckets, const F& each) {
  Counter place = 0;
  for (int64_t bucket = 0; bucket < buckets; ++bucket) {
    const Counter first = place;
    for (int64_t p = 0; p < parts; ++p) place += std::exchange(counts[p * buckets + bucket], place);
    each(bucket, first, place);
  }
}

// What is read of the lookups. Padding lookups get the row after the last, so that they end up
// behind all others.
template <typename Index>
struct Reader {
  const Index* indices;
  int64_t num_rows;
  int64_t padding_idx;
  const int64_t* sources;
  int64_t first_source;

  int64_t row(int64_t i) const { return indices[i] == padding_idx ? num_rows : indices[i]; }
  int64_t source(int64_t i) const { return sources ? sources[i] : first_source + i; }
  bool is_bad(int64_t i) const {
    return static_cast<uint64_t>(indices[i]) >= static_cast<uint64_t>(num_rows);
  }
};

// The arrays of RowGroups. There is room for one group more than there are lookups, so that a row
// may be written down before it is known to be another one than the last.
struct Groups {
  Groups(Scratch& memory, int64_t count)
      : rows(memory.take<int64_t>(count + 1)),
        starts(memory.take<int64_t>(count + 1)),
        sources(memory.take<int64_t>(count)) {}

  static size_t bytes(int64_t count) {
    return 2 * Scratch::bytes_for<int64_t>(count + 1) + Scratch::bytes_for<int64_t>(count);
  }

  RowGroups result(int64_t count, int64_t lookups, Scratch memory) const {
    starts[count] = lookups;
    return {count, lookups, rows, starts, sources, std::move(memory)};
  }

  int64_t* rows;
  int64_t* starts;
  int64_t* sources;
};

// Few rows: a counter for each says where its lookups begin.
template <typename Index, typename Check>
RowGroups group_by_counting(const Reader<Index>& read, const Parts& parts, const Check& check) {
  const int64_t count = parts.lookups, buckets = read.num_rows + 1;  // the last: padding
  Scratch memory(Groups::bytes(count) + Scratch::bytes_for<Counter>(parts.count * buckets));
  const Groups groups(memory, count);
  auto* const counters = memory.take<Counter>(parts.count * buckets);
  BadIndex bad;
  parts.run([&](int64_t part, int64_t begin, int64_t end) {
    Counter* const counts = counters + part * buckets;
    std::fill_n(counts, buckets, 0);
    for (int64_t i = begin; i < end; ++i) {
      if (read.is_bad(i)) {
        bad.note(i);
      } else {
        ++counts[read.row(i)];
      }
    }
  });
  check(bad);
  int64_t group = 0, lookups = 0;
  places_from_counts(counters, parts.count, buckets, [&](int64_t row, Counter first, Counter end) {
    if (row == read.num_rows) return;
    groups.rows[group] = row;
    groups.starts[group] = first;
    group += first != end;
    lookups = end;
  });
  parts.run([&](int64_t part, int64_t begin, int64_t end) {
    Counter* const next = counters + part * buckets;
    for (int64_t i = begin; i < end; ++i) groups.sources[next[read.row(i)]++] = read.source(i);
  });
  return groups.result(group, lookups, std::move(memory));
}

int bits_of(int64_t count) {
  return static_cast<int>(std::bit_width(static_cast<uint64_t>(count)));
}

// One lookup in 64 bits, row above source. Sorting by row alone keeps the input order, because a
// radix sort is stable.
struct KeyFormat {
  int row_bits;
  int source_bits;
  uint64_t key(int64_t row, int64_t source) const {
    return static_cast<uint64_t>(row) << source_bits | static_cast<uint64_t>(source);
  }
  int64_t row(uint64_t key) const { return static_cast<int64_t>(key >> source_bits); }
  int64_t source(uint64_t key) const {
    return static_cast<int64_t>(key & ((uint64_t{1} << source_bits) - 1));
  }
};

// A pass looks at these bits of a key.
struct Digit {
  int shift;
  int bits;
  int64_t buckets() const { return int64_t{1} << bits; }
  int64_t operator()(uint64_t key) const {
    return static_cast<int64_t>((key >> shift) & ((uint64_t{1} << bits) - 1));
  }
};

// As many passes as are the fastest: each moves all keys and walks all counters.
int fastest_passes(int64_t count, int row_bits) {
  int best = 0;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int passes = 1; passes <= row_bits; ++passes) {
    const int bits = (row_bits + passes - 1) / passes;
    if (bits > kMaxDigitBits) continue;
    const int64_t cost = passes * (2 * count + (int64_t{1} << bits));
    if (cost < least) least = cost, best = passes;
  }
  return best;
}

// The two halves of a stable pass. The places run over digits first and parts second, so the result
// does not depend on how many parts there are.
template <typename Key>
void count_digits(const Parts& parts, Digit digit, const Key& key, Counter* counters) {
  parts.run([&](int64_t part, int64_t begin, int64_t end) {
    Counter* const counts = counters + part * digit.buckets();
    std::fill_n(counts, digit.buckets(), 0);
    for (int64_t i = begin; i < end; ++i) ++counts[digit(key(i))];
  });
}

template <typename Key>
void move_by_digit(const Parts& parts, Digit digit, const Key& key, Counter* counters,
                   uint64_t* to) {
  places_from_counts(counters, parts.count, digit.buckets(), [](int64_t, Counter, Counter) {});
  parts.run([&](int64_t part, int64_t begin, int64_t end) {
    Counter* const next = counters + part * digit.buckets();
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t moved = key(i);
      to[next[digit(moved)]++] = moved;
    }
  });
}

// From sorted keys to groups: every part counts the rows that begin in it, and then writes them.
RowGroups groups_of(const Parts& parts, const uint64_t* keys, const KeyFormat& format,
                    const Groups& groups, Counter* begun, Scratch memory) {
  const auto begins = [&](int64_t i) {
    return i == 0 || format.row(keys[i]) != format.row(keys[i - 1]);
  };
  parts.run([&](int64_t part, int64_t begin, int64_t end) {
    Counter count = 0;
    for (int64_t i = begin; i < end; ++i) count += begins(i);
    begun[part] = count;
  });
  Counter all = 0;
  for (int64_t part = 0; part < parts.count; ++part) all += std::exchange(begun[part], all);
  parts.run([&](int64_t part, int64_t i, int64_t end) {
    for (; i < end && !begins(i); ++i) groups.sources[i] = format.source(keys[i]);
    int64_t group = int64_t{begun[part]} - 1, row = -1, start = 0;
    for (; i < end; ++i) {  // without a branch: whether a row begins is a matter of chance
      groups.sources[i] = format.source(keys[i]);
      const bool is_new = format.row(keys[i]) != row;
      row = format.row(keys[i]);
      start = is_new ? i : start;
      group += is_new;
      groups.rows[group] = row;
      groups.starts[group] = start;
    }
  });
  return groups.result(all, parts.lookups, std::move(memory));
}

// A radix sort on as many bits as rows have.
template <typename Index, typename Check>
RowGroups group_by_sorting(const Reader<Index>& read, Parts parts, const KeyFormat& format,
                           const Check& check) {
  const int64_t count = parts.lookups;
  const int passes = fastest_passes(count, format.row_bits);
  const int bits = (format.row_bits + passes - 1) / passes;
  const int64_t counted = parts.count << bits;
  Scratch memory(Groups::bytes(count) + Scratch::bytes_for<Counter>(counted) +
                 2 * Scratch::bytes_for<uint64_t>(count));
  const Groups groups(memory, count);
  auto* const counters = memory.take<Counter>(counted);
  auto* keys = memory.take<uint64_t>(count);
  auto* others = memory.take<uint64_t>(count);
  BadIndex bad;
  Digit digit{format.source_bits, bits};
  const auto key = [&](int64_t i) { return format.key(read.row(i), read.source(i)); };
  const auto checked_key = [&](int64_t i) {
    if (read.is_bad(i)) bad.note(i);
    return key(i);
  };
  count_digits(parts, digit, checked_key, counters);
  check(bad);
  move_by_digit(parts, digit, key, counters, keys);
  for (int pass = 1; pass < passes; ++pass) {
    digit.shift += bits;
    const auto moved = [&](int64_t i) { return keys[i]; };
    count_digits(parts, digit, moved, counters);
    move_by_digit(parts, digit, moved, counters, others);
    std::swap(keys, others);
  }
  while (parts.lookups > 0 && format.row(keys[parts.lookups - 1]) == read.num_rows) {
    --parts.lookups;  // padding
  }
  return groups_of(parts, keys, format, groups, counters, std::move(memory));
}

}  // namespace

RowGroups group_by_row(const GroupedLookups& lookups, const char* op) {
  const int64_t count = lookups.indices.count, num_rows = lookups.num_rows;
  TORCH_CHECK(num_rows >= 0, op, ": num_weights must not be negative, but is ", num_rows);
  const bool has_padding = lookups.padding_idx >= 0;
  const KeyFormat format{
      std::max(1, bits_of(has_padding ? num_rows : num_rows - (num_rows > 0))),
      bits_of(lookups.sources ? lookups.num_sources : lookups.first_source + count)};
  TORCH_CHECK(
      count <= std::numeric_limits<Counter>::max() && format.row_bits + format.source_bits <= 64,
      op, ": ", count, " lookups in ", num_rows,
      " rows are more than 32 bits can count or 64 bits can number");
  const Parts parts{parts_for(count * kElementsPerLookup), count};
  const auto check = [&](const BadIndex& bad) {
    check_lookups(bad, lookups.indices, num_rows, op);
  };
  return visit_indices(lookups.indices, [&]<typename Index>(const Index* indices) {
    const Reader<Index> read{indices, num_rows, lookups.padding_idx, lookups.sources,
                             lookups.first_source};
    if (num_rows <= kMaxCounters && num_rows * kLookupsPerCounter <= count) {
      const int64_t threads = count / (std::max<int64_t>(num_rows, 1) * kLookupsPerThread);
      return group_by_counting(read, {std::clamp<int64_t>(threads, 1, parts.count), count}, check);
    }
    return group_by_sorting(read, parts, format, check);
  });
}

}  // namespace myemb
