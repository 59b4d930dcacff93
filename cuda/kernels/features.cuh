#pragma once

// Several tables in one launch: which of them a lookup reads, and where the rows of each lie. All
// of it is in the parameters of the kernel, since what a launch reads from memory of the host could
// change before it runs.

#include <cuda/kernels/width.h>
#include <cuda/launch_tables.h>
#include <cuda/kernels/sum.cuh>

namespace myemb::cuda {

// Of a launch. Parameters may take 4 KiB.
inline constexpr size_t kMaxTables = 48;

// Row `row` of table or feature `table` of a launch in one number.
inline constexpr int kRowBits = 48;

MYEMB_INLINE int64_t packed_row(int64_t table, int64_t row) { return table << kRowBits | row; }
MYEMB_INLINE int table_of(int64_t packed) { return static_cast<int>(packed >> kRowBits); }
MYEMB_INLINE int64_t row_of(int64_t packed) { return packed & ((int64_t{1} << kRowBits) - 1); }

// Calls f with at most kMaxTables of `items` at a time, and the number of the first.
template <typename Item, typename F>
int for_each_launch(std::span<const Item> items, const F& f) {
  for (size_t first = 0; first < items.size(); first += kMaxTables) {
    const size_t count = std::min(kMaxTables, items.size() - first);
    if (const int error = f(items.subspan(first, count), first); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// The last of the `count` numbers begin(0) <= begin(1) <= ... that is at most `at`, or 0.
template <typename Begin>
__device__ __forceinline__ int last_beginning(int count, int64_t at, const Begin& begin) {
  int low = 0, high = count;
#pragma unroll 1
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (begin(middle) <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// The lookups of the features of a launch.
class FeatureList {
 public:
  FeatureList(const FeatureLookups& lookups, std::span<const FeatureRows> features)
      : indices_(lookups.indices),
        offsets_(lookups.offsets),
        num_bags_(lookups.num_bags),
        count_(static_cast<int>(features.size())) {
    for (size_t f = 0; f < features.size(); ++f) {
      of_[f] = {features[f].feature * num_bags_, features[f].num_rows, features[f].padding_idx};
    }
  }

  __device__ int64_t total() const { return indices_.count; }
  __device__ int64_t num_bags() const { return num_bags_; }

  // The feature that a lookup is of, or -1 if it is not one of these. Many features may begin with
  // it, of which the last has it.
  __device__ int feature_of(int64_t lookup) const {
    const int f =
        last_beginning(count_, lookup, [&](int feature) { return offsets_[of_[feature].first]; });
    const int64_t* const own = offsets_ + of_[f].first;
    return own[0] <= lookup && lookup < own[num_bags_] ? f : -1;
  }

  __device__ Segments bags(int feature) const {
    return {offsets_ + of_[feature].first, num_bags_ + 1, 0, num_bags_, indices_.count};
  }

  // A bag of the feature among those of all features.
  __device__ int64_t bag(int feature, int64_t bag) const { return of_[feature].first + bag; }

  __device__ int64_t index(int64_t lookup) const { return load_index(indices_, lookup); }
  __device__ bool is_row(int feature, int64_t index) const {
    return cuda::is_row(index, of_[feature].num_rows);
  }
  __device__ bool is_padding(int feature, int64_t index) const {
    return index == of_[feature].padding_idx;
  }
  __device__ bool has_padding(int feature) const { return of_[feature].padding_idx >= 0; }

 private:
  struct Feature {
    int64_t first;  // of its offsets
    int64_t num_rows;
    int64_t padding_idx;
  };

  Indices indices_;
  const int64_t* offsets_;
  int64_t num_bags_;
  int count_;
  Feature of_[kMaxTables];
};

// Where the gradients of the bags of each feature begin, see GroupedFeature.
class FeatureStarts {
 public:
  explicit FeatureStarts(std::span<const GroupedFeature> features) {
    for (size_t f = 0; f < features.size(); ++f) {
      first_[f] = features[f].start;
      step_[f] = features[f].step;
    }
  }

  __device__ int64_t of(int feature, int64_t bag) const {
    return first_[feature] + bag * step_[feature];
  }

 private:
  int64_t first_[kMaxTables];
  int64_t step_[kMaxTables];
};

// The Source (segments.cuh) of the bags of features. kOfBlock: a block is for the bags of one, the
// launch's blockIdx.z; else the feature is looked for. Lookups and results have packed rows.
template <typename A, bool kOfBlock>
class FeatureBags {
 public:
  using Lookup = LookupOf<A>;

  FeatureBags(const FeatureList& features, const void* weights, int64_t* long_bags)
      : features_(features), weights_(static_cast<const A*>(weights)), long_bags_(long_bags) {}

  __device__ int64_t total() const { return features_.total(); }
  __device__ bool weighted() const { return weights_ != nullptr; }
  __device__ int64_t out_row(int64_t bag) const { return packed_row(feature_of(0), bag); }

  __device__ Segment segment(int64_t bag, Faults& /*faults*/) const {
    if (bag >= features_.num_bags()) return {0, 0, 0};
    const Segments bags = features_.bags(feature_of(0));
    return {0, bags.begin(bag), bags.end(bag)};
  }

  __device__ void note_windows(const ThreadGroup& group, int64_t bag,
                               const Segment& segment) const {
    note_long_bag(long_bags_, group, segment, out_row(bag));
  }

  // Windows that begin in bags of other features have been noted before (note_no_long_bags).
  __device__ Segment long_over(int64_t window) const {
    const int64_t packed = long_bags_[window];
    if (packed < 0) return {0, 0, 0};
    const Segments bags = features_.bags(table_of(packed));
    const int64_t bag = row_of(packed);
    return {packed, bags.begin(bag), bags.end(bag)};
  }

  __device__ Lookup lookup(int64_t i, Faults& faults) const {
    const int feature = feature_of(i);
    const int64_t index = features_.index(i);
    if (!features_.is_row(feature, index)) {
      faults |= kIndex;
      return {};
    }
    if (features_.is_padding(feature, index)) return {};
    return {packed_row(feature, index), i, weights_ ? weights_[i] : A(1)};
  }

  __device__ void refuse(Faults faults) const {
    assert(!(faults & kIndex) && "myemb::embedding_bag_tables: index out of range");
  }

 private:
  __device__ int feature_of(int64_t i) const {
    return kOfBlock ? static_cast<int>(blockIdx.z) : features_.feature_of(i);
  }

  FeatureList features_;
  const A* weights_;
  int64_t* long_bags_;  // null if no bag can be long
};

// Before the bags of a launch: as if no window began in a long one.
inline int note_no_long_bags(int64_t* long_bags, int64_t num_lookups, cudaStream_t stream) {
  if (!long_bags) return cudaSuccess;
  return cudaMemsetAsync(long_bags, 0xff, windows_of(num_lookups) * sizeof(int64_t), stream);
}

// The reader of packed rows.
template <typename T, int N>
struct FeatureReader : RowReader<T, N> {
  const T* tables[kMaxTables];
  int64_t row_strides[kMaxTables];

  FeatureReader(const FeatureGroup& group, std::span<const FeatureRows> features)
      : RowReader<T, N>{nullptr, 0, group.column_stride} {
    for (size_t f = 0; f < features.size(); ++f) {
      tables[f] = static_cast<const T*>(features[f].data);
      row_strides[f] = features[f].row_stride;
    }
  }

  __device__ const T* row(int64_t packed) const {
    return tables[table_of(packed)] + row_of(packed) * row_strides[table_of(packed)];
  }

  template <typename Lookup>
  __device__ const T* place(const Lookup& lookup) const {
    return row(lookup.row);
  }
};

// Rows of several tables that are written.
template <typename V>
struct TableRows {
  V* first[kMaxTables];
  int64_t stride;

  __device__ V* row(int64_t packed) const {
    return first[table_of(packed)] + row_of(packed) * stride;
  }
};

template <typename V, typename Pointer>
TableRows<V> table_rows(std::span<Pointer const> first, int64_t stride) {
  TableRows<V> rows{};
  for (size_t t = 0; t < first.size(); ++t) rows.first[t] = static_cast<V*>(first[t]);
  rows.stride = stride;
  return rows;
}

// The sink (sum.cuh) that stores sums in rows of several tables.
template <typename T>
struct StoreInTables {
  using A = Accumulator<T>;
  static constexpr int kRunBlocks = 0;

  TableRows<T> rows;

  template <int N>
  __device__ void write(int64_t out_row, int64_t column, const A (&sum)[N]) const {
    store_narrowed<T>(rows.row(out_row) + column, sum);
  }

  template <int N, int kRows>
  using Waiting = NoWaiting<StoreInTables, N>;
};

// As good as a pointer whose alignment is that of all of them.
template <typename Pointers, typename AddressOf>
const void* least_aligned(const Pointers& pointers, const AddressOf& address_of) {
  uintptr_t all = 0;
  for (const auto& pointer : pointers) all |= reinterpret_cast<uintptr_t>(address_of(pointer));
  return reinterpret_cast<const void*>(all);
}

// Calls f.operator()<N>() for the largest N such that rows of the features' tables can be read N
// values at a time, and `out` be written, whose rows are out_stride apart.
template <typename T, int N = kAccessBytes / sizeof(T), typename F>
int visit_feature_width(const FeatureGroup& group, std::span<const FeatureRows> features,
                        const void* out, int64_t out_stride, const F& f) {
  int64_t strides = out_stride;  // a power of two divides all if it divides this
  for (const FeatureRows& feature : features) strides |= feature.row_stride;
  const void* const data =
      least_aligned(features, [](const FeatureRows& feature) { return feature.data; });
  return visit_width<T, N>({data, group.dtype, 0, group.dim, strides, group.column_stride}, out, f);
}

}  // namespace myemb::cuda
