// gather-reduce over the bags of many features: modes sum and mean.

#include <cuda/kernels/features.cuh>

namespace myemb::cuda {
namespace {

template <typename T>
int launch_sums(const FeatureSums& args, std::span<const FeatureRows> features,
                std::span<void* const> out, Stream stream) {
  using A = Accumulator<T>;
  using Sink = StoreInTables<T>;
  const FeatureGroup& group = args.group;
  const int64_t num_lookups = group.lookups.indices.count;
  const FeatureList list(group.lookups, features);
  const auto output = sink_output<T>(Sink{table_rows<T>(out, args.out_stride)}, args.partials,
                                     num_lookups, group.dim, args.average);
  int64_t* const long_bags =
      long_bags_in(args.partials, num_lookups, sum_slot_bytes(group.dim, group.dtype));
  if (const int error = note_no_long_bags(long_bags, num_lookups, stream); error != cudaSuccess) {
    return error;
  }
  const void* const least = least_aligned(out, [](void* row) { return row; });
  return visit_feature_width<T>(group, features, least, args.out_stride, [&]<int N>() -> int {
    const FeatureReader<T, N> rows(group, features);
    const int error = launch_segments<T, N, Sum<T, N, Sink>>(
        FeatureBags<A, true>(list, group.lookups.weights, long_bags), group.lookups.num_bags,
        group.dim, rows, output, stream, static_cast<unsigned>(features.size()));
    if (error != cudaSuccess) return error;
    return launch_long_sums<T, N>(FeatureBags<A, false>(list, group.lookups.weights, long_bags),
                                  num_lookups, rows, output, stream);
  });
}

}  // namespace

int launch_feature_sums(const FeatureSums& args, Stream stream) {
  if (args.group.lookups.num_bags == 0 || args.group.dim == 0) return cudaSuccess;
  return for_each_launch(args.group.features, [&](auto features, size_t first) {
    return visit(args.group.dtype, [&]<typename T>(T) {
      return launch_sums<T>(args, features, args.out.subspan(first, features.size()), stream);
    });
  });
}

}  // namespace myemb::cuda
