#pragma once

// Which lookups make up an output row, and what each lookup reads: `Bags` going forward, `Runs`
// (the sorted lookups of a table row) going backward. Chunks of both go through one kernel.
//
// Both have
//   total()              the number of lookups
//   out_row(i)           where the sum of bag or table row i goes, for the sink
//   weighted()           whether lookups have weights other than 1
//   long_over(window)    the segment that has the first lookup of a window of kChunk; one of at
//   most
//                        kChunk lookups may be said to be empty
//   lookup(i, faults)    what lookup i reads
//   refuse(faults)       fails the assertions of what was found wrong

#include <cuda/launch.h>
#include <cuda/kernels/thread_group.cuh>

#undef NDEBUG  // an index out of range must stop the kernel in release builds, too
#include <cassert>

namespace myemb::cuda {

// What a thread found wrong with offsets and indices. A segment or lookup that is wrong is as good
// as none, so that nothing is read by it, and refused when all rows are summed up: a failing
// assertion is a call, and what follows a call is compiled with less registers, and twice
// (reduce.cuh).
using Faults = unsigned;
enum Fault : Faults { kFirstOffset = 1, kOffsetOrder = 2, kLastOffset = 4, kIndex = 8 };

// One lookup; row -1 is none, which adds nothing.
template <typename A>
struct LookupOf {
  int64_t row = -1;
  int64_t position = -1;
  A weight = 1;
};

// The lookups [begin, end) make up row `out_row` of the output.
struct Segment {
  int64_t out_row;
  int64_t begin;
  int64_t end;
  __device__ int64_t length() const { return end - begin; }
};

__device__ __forceinline__ int64_t load_index(const Indices& indices, int64_t i) {
  return indices.is_int64 ? static_cast<const int64_t*>(indices.data)[i]
                          : static_cast<const int32_t*>(indices.data)[i];
}

__device__ __forceinline__ bool is_row(int64_t index, int64_t num_rows) {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(num_rows);
}

// The bag of a lookup: the last one that begins at or before it.
__device__ __forceinline__ int64_t find_bag(const Segments& bags, int64_t lookup) {
  int64_t low = 0, high = bags.count;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (bags.begin(middle) <= lookup) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Every window of kChunk lookups begins in one bag, whose group notes what it is if it is long, and
// else -1. To look for the bag would take longer than to add up a short one.
__device__ __forceinline__ void note_long_bag(int64_t* long_bags, const ThreadGroup& group,
                                              const Segment& segment, int64_t bag) {
  if (!long_bags) return;
#pragma unroll 1
  for (int64_t window = (segment.begin + kChunk - 1) / kChunk + group.lane();
       window * kChunk < segment.end; window += group.size()) {
    long_bags[window] = segment.length() > kChunk ? bag : -1;
  }
}

template <typename A>
class Bags {
 public:
  using Lookup = LookupOf<A>;

  explicit Bags(const BagLookups& args, int64_t* long_bags = nullptr)
      : args_(args), long_bags_(long_bags) {}

  __device__ int64_t count() const { return args_.bags.count; }
  __device__ int64_t total() const { return args_.indices.count; }
  __device__ bool weighted() const { return args_.weights != nullptr; }

  __device__ Segment segment(int64_t bag, Faults& faults) const {
    const Segment none{bag, 0, 0};
    if (bag >= count()) return none;
    const Segment segment{bag, args_.bags.begin(bag), args_.bags.end(bag)};
    if (bag == 0 && segment.begin != 0) faults |= kFirstOffset;
    if (segment.begin < 0 || segment.begin > segment.end || segment.end > total()) {
      faults |= kOffsetOrder;
    }
    if (bag + 1 == count() && segment.end != total()) faults |= kLastOffset;
    return faults ? none : segment;
  }

  __device__ int64_t out_row(int64_t bag) const { return bag; }

  __device__ void note_windows(const ThreadGroup& group, int64_t bag,
                               const Segment& segment) const {
    note_long_bag(long_bags_, group, segment, bag);
  }

  __device__ Segment long_over(int64_t window) const {
    const int64_t bag = long_bags_[window];
    if (bag < 0) return {0, 0, 0};
    return {bag, args_.bags.begin(bag), args_.bags.end(bag)};
  }

  __device__ Lookup lookup(int64_t i, Faults& faults) const {
    const int64_t index = load_index(args_.indices, i);
    if (!is_row(index, args_.num_rows)) {
      faults |= kIndex;
      return {};
    }
    if (index == args_.padding_idx) return {};
    const auto* weights = static_cast<const A*>(args_.weights);
    return {index, i, weights ? weights[i] : A(1)};
  }

  __device__ void refuse(Faults faults) const {
    assert(!(faults & kFirstOffset) && "myemb::embedding_bag: offsets[0] has to be 0");
    assert(!(faults & kOffsetOrder) &&
           "myemb::embedding_bag: offsets must not decrease, nor exceed the number of indices");
    assert(!(faults & kLastOffset) &&
           "myemb::embedding_bag: with include_last_offset, offsets[-1] has to be the number of "
           "indices");
    assert(!(faults & kIndex) && "myemb::embedding_bag: index out of range");
  }

 private:
  BagLookups args_;
  int64_t* long_bags_;  // null if no bag can be long
};

// The arrays of Groups, whatever their width.
class SortedLookups {
 public:
  explicit SortedLookups(const Groups& groups) : groups_(groups) {}

  __device__ int64_t count() const { return groups_.count; }
  __device__ int64_t num_rows() const { return groups_.num_rows; }

  __device__ int64_t row(int64_t i) const {
    return groups_.wide ? static_cast<int64_t>(static_cast<const uint64_t*>(groups_.rows)[i])
                        : static_cast<int64_t>(static_cast<const uint32_t*>(groups_.rows)[i]);
  }

  __device__ int64_t payload(int64_t i) const {
    return groups_.wide ? static_cast<const int64_t*>(groups_.payloads)[i]
                        : static_cast<const int32_t*>(groups_.payloads)[i];
  }

  // Whether lookup i is the first of its row; padding has none.
  __device__ bool starts_row(int64_t i, int64_t row) const {
    return row != groups_.num_rows && (i == 0 || this->row(i - 1) != row);
  }

  // The first lookup in [low, high] whose row is not less than `row`.
  __device__ int64_t lower_bound(int64_t row, int64_t low, int64_t high) const {
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (this->row(middle) < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

 private:
  Groups groups_;
};

// What a sorted lookup is to the runs around it.
struct RunBorder {
  int64_t row;
  bool starts;    // a run
  bool left_out;  // that run: it is of padding, or of more than kChunk lookups
};

template <typename A>
class Runs {
 public:
  using Lookup = LookupOf<A>;

  explicit Runs(const GradientSum& args)
      : sorted_(args.groups),
        bag_of_(args.bag_of),
        weights_(static_cast<const A*>(args.weights)),
        weights_by_row_(args.weights_by_row) {}

  __device__ int64_t total() const { return sorted_.count(); }
  __device__ bool weighted() const { return weights_ != nullptr; }
  __device__ int64_t out_row(int64_t row) const { return row; }

  // i: from 0 on. The last run ends with a start, too: that of padding.
  __device__ bool starts_run(int64_t i) const {
    return i == 0 || row_or_padding(i) != row_or_padding(i - 1);
  }

  // Whether a run starts with lookup i that is not of padding.
  __device__ bool starts_row(int64_t i) const { return sorted_.starts_row(i, sorted_.row(i)); }

  // The run that starts with lookup i. Most are of one or two: its end is looked for nearby first.
  __device__ Segment run_from(int64_t i) const {
    const int64_t row = sorted_.row(i);
    int64_t low = i + 1, step = 1;
    while (low + step <= total() && sorted_.row(low + step - 1) == row) {
      low += step;
      step *= 2;
    }
    return {row, i, sorted_.lower_bound(row + 1, low, min(low + step, total()))};
  }

  __device__ RunBorder border(int64_t i) const {
    const int64_t row = row_or_padding(i);
    const bool is_long = row == row_or_padding(i + kChunk);
    return {row, starts_run(i), is_long || row == sorted_.num_rows()};
  }

  // window: from 1 on. A long run around its first lookup has the one before, too, and one half a
  // chunk before or behind.
  __device__ Segment long_over(int64_t window) const {
    const int64_t i = window * kChunk, row = sorted_.row(i);
    const bool may_be_long =
        row != sorted_.num_rows() && row == row_or_padding(i - 1) &&
        (row == row_or_padding(i - kChunk / 2) || row == row_or_padding(i + kChunk / 2));
    if (!may_be_long) return {0, 0, 0};
    return {row, sorted_.lower_bound(row, 0, i), sorted_.lower_bound(row + 1, i, total())};
  }

  __device__ Lookup lookup(int64_t i, Faults& /*faults*/) const {
    const int64_t payload = sorted_.payload(i);
    const int64_t row = bag_of_ ? bag_of_[payload] : payload;
    return {row, payload, weights_ ? weights_[weights_by_row_ ? row : payload] : A(1)};
  }

  __device__ void refuse(Faults /*faults*/) const {}  // all was checked before it was sorted

 protected:
  // Behind the last lookup all is padding.
  __device__ int64_t row_or_padding(int64_t i) const {
    return i < total() ? sorted_.row(i) : sorted_.num_rows();
  }

  SortedLookups sorted_;

 private:
  const int64_t* bag_of_;
  const A* weights_;
  bool weights_by_row_;
};

// ---- chunks of long segments
//
// Chunk k of a segment is the lookups [begin + k * kChunk, ...) of it. Where the chunks of all
// segments of more than kChunk lookups are to be stored must be known without counting them first:
// cut the lookups into windows of kChunk. At most one later chunk (k > 0) starts in a window, and
// at most one first chunk, because another start would be less than kChunk behind it. So two slots
// for each window are enough, and the place of a chunk follows from where it starts.

MYEMB_INLINE int64_t windows_of(int64_t num_lookups) {
  return num_lookups <= kChunk ? 0 : (num_lookups + kChunk - 1) / kChunk;
}

MYEMB_INLINE int64_t slot_of(int64_t chunk_begin, bool first) {
  return 2 * (chunk_begin / kChunk) + (first ? 1 : 0);
}

// Behind the slots, in scratch memory, is a number for each window: of its long bag.
inline size_t partials_bytes(int64_t num_lookups, size_t slot_bytes) {
  return windows_of(num_lookups) * (2 * slot_bytes + sizeof(int64_t));
}

inline int64_t* long_bags_in(void* partials, int64_t num_lookups, size_t slot_bytes) {
  if (windows_of(num_lookups) == 0) return nullptr;
  return reinterpret_cast<int64_t*>(static_cast<char*>(partials) +
                                    2 * windows_of(num_lookups) * slot_bytes);
}

// The long segment whose first chunk starts in the window, or an empty one.
template <typename Source>
__device__ Segment long_segment_from(const Source& source, int64_t window) {
  const int64_t begin = window * kChunk, next = begin + kChunk;
  const Segment none{0, 0, 0};
  if (next >= source.total()) return none;
  const Segment segment = source.long_over(window + 1);  // a long one reaches into the next window
  const bool starts_here = segment.begin >= begin && segment.begin < next;
  return starts_here && segment.length() > kChunk ? segment : none;
}

// The lookups of the chunk in a slot, as a segment; empty if there is none.
template <typename Source>
__device__ Segment chunk_in(const Source& source, int64_t slot) {
  const int64_t window = slot / 2;
  if (slot % 2 == 1) {
    const Segment segment = long_segment_from(source, window);
    return {segment.out_row, segment.begin, min(segment.begin + kChunk, segment.end)};
  }
  if (window == 0) return {0, 0, 0};
  const Segment segment = source.long_over(window);
  const int64_t chunks_before = (window * kChunk - segment.begin + kChunk - 1) / kChunk;
  const int64_t begin = segment.begin + chunks_before * kChunk;
  if (chunks_before == 0 || begin >= segment.end) return {0, 0, 0};
  return {segment.out_row, begin, min(begin + kChunk, segment.end)};
}

}  // namespace myemb::cuda
