// The gradient of per_sample_weights of many features.

#include <cuda/kernels/dot.cuh>
#include <cuda/kernels/features.cuh>
#include <cuda/kernels/refuse.cuh>

namespace myemb::cuda {
namespace {

// The lookups of the features of a launch.
template <typename T, int N, bool kWhereMax>
struct TableDots {
  FeatureList features;
  FeatureStarts starts;
  int64_t position_starts[kWhereMax ? kMaxTables : 1];
  int64_t position_step;
  RowReader<T, N> left_rows;
  FeatureReader<T, N> right_rows;
  const int64_t* positions;
  int64_t columns;

  __device__ int64_t count() const { return features.total(); }
  __device__ int64_t dim() const { return columns; }

  __device__ DotOf<T, N, kWhereMax> lookup(int64_t i) const {
    const int feature = features.feature_of(i);
    if (feature < 0) {
      return {
          {left_rows, right_rows, left_rows.row(0), right_rows.row(0), positions}, 0, true, false};
    }
    const int64_t index = features.index(i);
    if (!features.is_row(feature, index)) {
      refuse_index(Op::EmbeddingBagTablesPerSampleWeightsBackward);
    }
    const int64_t bag = find_bag(features.bags(feature), i);
    const int64_t* first_position = positions;
    if constexpr (kWhereMax) first_position += position_starts[feature] + bag * position_step;
    return {{left_rows, right_rows, left_rows.row(starts.of(feature, bag)),
             right_rows.row(packed_row(feature, index)), first_position},
            features.bag(feature, bag),
            features.is_padding(feature, index),
            true};
  }
};

template <typename T, bool kWhereMax>
int launch_features(const FeatureDots& args, std::span<const FeatureRows> features, size_t first,
                    Stream stream) {
  const FeatureGroup& group = args.group;
  const auto own_starts = args.starts.subspan(first, features.size());
  int64_t all_positions = args.position_step;
  for (const GroupedFeature& feature : own_starts) all_positions |= feature.position_start;
  const auto launch = [&]<int N>() {
    TableDots<T, N, kWhereMax> dots{
        .features = FeatureList(group.lookups, features),
        .starts = FeatureStarts(own_starts),
        .position_starts = {},
        .position_step = args.position_step,
        .left_rows = reader_of<T, N>(args.left),
        .right_rows = FeatureReader<T, N>(group, features),
        .positions = args.positions,
        .columns = group.dim,
    };
    if constexpr (kWhereMax) {
      for (size_t f = 0; f < features.size(); ++f) {
        dots.position_starts[f] = own_starts[f].position_start;
      }
    }
    return launch_dots<T, N, kWhereMax>(dots, group.lookups.indices.count, group.dim, args.shares,
                                        args.out, stream);
  };
  // Positions are read two at a time.
  if (kWhereMax && (!is_aligned(args.positions, kAccessBytes) || all_positions % 2)) {
    return launch.template operator()<1>();
  }
  return visit_width<T, kDotColumns<T, kWhereMax>>(args.left, args.left.data, [&]<int kLeft>() {
    return visit_feature_width<T, kLeft>(group, features, nullptr, 0, launch);
  });
}

}  // namespace

int launch_feature_dots(const FeatureDots& args, Stream stream) {
  if (args.group.lookups.indices.count == 0) return cudaSuccess;
  return for_each_launch(args.group.features, [&](auto features, size_t first) {
    return visit(args.group.dtype, [&]<typename T>(T) {
      return args.positions ? launch_features<T, true>(args, features, first, stream)
                            : launch_features<T, false>(args, features, first, stream);
    });
  });
}

}  // namespace myemb::cuda
