// What has to be known of the lookups of many features: whether their indices are rows, how many
// each bag counts, and for backward the row, bag and weight of each.

#include <cuda/kernels/number_tables.h>
#include <cuda/kernels/count.cuh>
#include <cuda/kernels/features.cuh>
#include <cuda/kernels/mark_maxima.cuh>
#include <cuda/kernels/refuse.cuh>

#include <algorithm>
#include <vector>

namespace myemb::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) check_features(const FeatureList features) {
#pragma unroll 1
  for (int64_t i = thread_index(); i < features.total(); i += thread_count()) {
    const int feature = features.feature_of(i);
    assert((feature < 0 || features.is_row(feature, features.index(i))) &&
           "myemb::embedding_bag_tables: index out of range");
  }
}

struct CountedOfFeature {
  const FeatureList& features;
  int feature;
  __device__ bool operator()(int64_t i) const {
    return !features.is_padding(feature, features.index(i));
  }
};

// A warp for each window of kChunk lookups. Only those that lie within a bag are asked for, and so
// within the feature that has their first lookup.
__global__ void __launch_bounds__(kThreads)
    count_feature_windows(const FeatureList features, int32_t* window_counts) {
  const ThreadGroup warp(kWarp);
  const int64_t count = features.total();
#pragma unroll 1
  for (int64_t window = warp.first_in_warp(); window * kChunk < count; window += warp.count()) {
    const int64_t begin = window * kChunk;
    const int feature = features.feature_of(begin);
    if (feature < 0) continue;
    const int64_t counted =
        count_some(warp, CountedOfFeature{features, feature}, begin, min(begin + kChunk, count));
    if (warp.lane() == 0) window_counts[window] = static_cast<int32_t>(counted);
  }
}

// A warp for each bag of feature blockIdx.y.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    count_feature_bags(const FeatureList features, const FeatureStarts starts,
                       const int32_t* window_counts, bool inverse, A* divisors,
                       int64_t* bag_starts) {
  const ThreadGroup warp(kWarp);
  const auto feature = static_cast<int>(blockIdx.y);
  const Segments bags = features.bags(feature);
#pragma unroll 1
  for (int64_t bag = warp.first_in_warp(); bag < bags.count; bag += warp.count()) {
    const int64_t begin = bags.begin(bag), end = bags.end(bag);
    const int64_t counted =
        features.has_padding(feature)
            ? count_bag(warp, CountedOfFeature{features, feature}, window_counts, begin, end)
            : end - begin;
    if (warp.lane() > 0) continue;
    const int64_t bag_of_all = features.bag(feature, bag);
    divisors[bag_of_all] = divisor_of<A>(counted, inverse);
    if (bag_starts) bag_starts[bag_of_all] = starts.of(feature, bag);
  }
}

// What GroupedFeature says beside its rows.
struct Numbered {
  int64_t first_row;
  int64_t start;
  int64_t step;
  Payload payload;
  bool average;
};

// The features of a launch and where what is known of their lookups goes, see GroupTables.
template <typename A>
struct NumberTables {
  FeatureList features;
  Numbered of[kMaxTables];
  int64_t num_rows;
  const A* weights_in;
  const A* divisors;
  int64_t* starts;
  A* weights;
  Op op;

  // Returns the payload.
  __device__ int64_t note(int feature, int64_t bag, int64_t i) const {
    const Numbered& numbered = of[feature];
    const int64_t start = numbered.start + bag * numbered.step;
    if (numbered.payload == Payload::Start) return start;
    const int64_t bag_of_all = features.bag(feature, bag);
    if (numbered.payload == Payload::Bag) return bag_of_all;
    starts[i] = start;
    if (weights) {
      const A weight = weights_in ? weights_in[i] : A(1);
      weights[i] = numbered.average ? weight / divisors[bag_of_all] : weight;
    }
    return i;
  }
};

template <typename A, typename Row, typename PayloadType>
__global__ void __launch_bounds__(kThreads)
    number_tables(const NumberTables<A> tables, Row* rows, PayloadType* payloads) {
  const FeatureList& features = tables.features;
#pragma unroll 1
  for (int64_t i = thread_index(); i < features.total(); i += thread_count()) {
    const int feature = features.feature_of(i);
    if (feature < 0) continue;
    const int64_t index = features.index(i);
    if (!features.is_row(feature, index)) refuse_index(tables.op);
    const int64_t first_row = tables.of[feature].first_row;
    if (first_row < 0) {
      rows[i] = static_cast<Row>(tables.num_rows);
      payloads[i] = 0;
      continue;
    }
    const int64_t bag = find_bag(features.bags(feature), i);
    payloads[i] = static_cast<PayloadType>(tables.note(feature, bag, i));
    rows[i] =
        static_cast<Row>(features.is_padding(feature, index) ? tables.num_rows : first_row + index);
  }
}

std::vector<FeatureRows> rows_of(std::span<const GroupedFeature> features) {
  std::vector<FeatureRows> rows;
  rows.reserve(features.size());
  for (const GroupedFeature& feature : features) rows.push_back(feature.rows);
  return rows;
}

template <typename A>
NumberTables<A> number_tables_of(const GroupTables& args,
                                 std::span<const GroupedFeature> features) {
  NumberTables<A> tables{
      .features = FeatureList(args.lookups, rows_of(features)),
      .of = {},
      .num_rows = args.num_rows,
      .weights_in = static_cast<const A*>(args.lookups.weights),
      .divisors = static_cast<const A*>(args.divisors),
      .starts = args.starts,
      .weights = static_cast<A*>(args.weights),
      .op = args.op,
  };
  for (size_t f = 0; f < features.size(); ++f) {
    const GroupedFeature& feature = features[f];
    tables.of[f] = {feature.first_row, feature.start, feature.step, feature.payload,
                    feature.average};
  }
  return tables;
}

template <typename A, typename Row, typename PayloadType>
int number(const GroupTables& args, void* rows, void* payloads, Stream stream) {
  const dim3 grid = grid_for(args.lookups.indices.count, 1);
  return for_each_launch(args.features, [&](auto features, size_t /*first*/) -> int {
    number_tables<A, Row, PayloadType><<<grid, kThreads, 0, stream>>>(
        number_tables_of<A>(args, features), static_cast<Row*>(rows),
        static_cast<PayloadType*>(payloads));
    return cudaGetLastError();
  });
}

// Of feature blockIdx.z.
class FeatureMaximaPlaces {
 public:
  FeatureMaximaPlaces(const FeatureBagMaxima& args, std::span<const GroupedFeature> features)
      : features_(args.lookups, rows_of(features)), step_(args.position_step) {
    for (size_t f = 0; f < features.size(); ++f) {
      first_[f] = args.positions + features[f].position_start;
    }
  }

  __device__ int64_t begin(int64_t bag) const { return features_.bags(feature()).begin(bag); }
  __device__ int64_t end(int64_t bag) const { return features_.bags(feature()).end(bag); }
  __device__ const int64_t* positions(int64_t bag) const { return first_[feature()] + bag * step_; }

 private:
  __device__ static int feature() { return static_cast<int>(blockIdx.z); }

  FeatureList features_;
  const int64_t* first_[kMaxTables];
  int64_t step_;
};

template <typename A>
int count_bags(const FeatureDivisors& args, std::span<const GroupedFeature> features,
               Stream stream) {
  const FeatureList list(args.lookups, rows_of(features));
  const int64_t count = args.lookups.indices.count;
  const bool has_padding = std::any_of(features.begin(), features.end(), [](const auto& feature) {
    return feature.rows.padding_idx >= 0;
  });
  if (has_padding && count >= kChunk) {
    const dim3 grid = grid_for((count + kChunk - 1) / kChunk, kWarp);
    count_feature_windows<<<grid, kThreads, 0, stream>>>(list, args.window_counts);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  const dim3 grid = grid_for(args.lookups.num_bags, kWarp, static_cast<int64_t>(features.size()));
  count_feature_bags<<<grid, kThreads, 0, stream>>>(
      list, FeatureStarts(features), args.window_counts, args.inverse,
      static_cast<A*>(args.divisors), args.bag_starts);
  return cudaGetLastError();
}

}  // namespace

int launch_feature_check(const FeatureLookups& lookups, std::span<const FeatureRows> features,
                         Stream stream) {
  if (lookups.indices.count == 0) return cudaSuccess;
  const dim3 grid = grid_for(lookups.indices.count, 1);
  return for_each_launch(features, [&](auto some, size_t /*first*/) -> int {
    check_features<<<grid, kThreads, 0, stream>>>(FeatureList(lookups, some));
    return cudaGetLastError();
  });
}

int launch_feature_divisors(const FeatureDivisors& args, Stream stream) {
  if (args.lookups.num_bags == 0) return cudaSuccess;
  return for_each_launch(args.features, [&](auto features, size_t /*first*/) {
    return args.dtype == Dtype::Double ? count_bags<double>(args, features, stream)
                                       : count_bags<float>(args, features, stream);
  });
}

int launch_feature_bag_maxima(const FeatureBagMaxima& args, Stream stream) {
  const int64_t num_bags = args.lookups.num_bags;
  if (num_bags == 0 || args.dim == 0) return cudaSuccess;
  return for_each_launch(args.features, [&](auto features, size_t /*first*/) -> int {
    const dim3 grid = grid_for_maxima(num_bags, features.size());
    mark_maxima<<<grid, kThreads, 0, stream>>>(FeatureMaximaPlaces(args, features), num_bags,
                                               args.dim, args.maxima);
    return cudaGetLastError();
  });
}

int launch_number_tables(const GroupTables& args, void* rows, void* payloads, bool wide,
                         Stream stream) {
  const auto run = [&]<typename A>(A /*type*/) {
    return wide ? number<A, uint64_t, int64_t>(args, rows, payloads, stream)
                : number<A, uint32_t, int32_t>(args, rows, payloads, stream);
  };
  return args.dtype == Dtype::Double ? run(double{}) : run(float{});
}

}  // namespace myemb::cuda
