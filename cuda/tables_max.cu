// gather-reduce by maximum over the bags of many features.

#include <cuda/kernels/features.cuh>
#include <cuda/kernels/max.cuh>

namespace myemb::cuda {
namespace {

// Columns of outputs that features share.
template <typename T>
struct MaxInTables {
  TableRows<T> rows;
  TableRows<int64_t> position_rows;
  bool has_positions;

  __device__ T* out(int64_t out_row) const { return rows.row(out_row); }
  __device__ int64_t* positions(int64_t out_row) const {
    return has_positions ? position_rows.row(out_row) : nullptr;
  }
};

template <typename T>
int launch_maxima(const FeatureMaxima& args, std::span<const FeatureRows> features, size_t first,
                  Stream stream) {
  using A = Accumulator<T>;
  using Place = MaxInTables<T>;
  const FeatureGroup& group = args.group;
  const int64_t num_lookups = group.lookups.indices.count;
  const bool has_positions = !args.positions.empty();
  const auto out = args.out.subspan(first, features.size());
  const auto positions =
      args.positions.subspan(has_positions ? first : 0, has_positions ? features.size() : 0);
  const FeatureList list(group.lookups, features);
  const auto output =
      max_output<T>(Place{table_rows<T>(out, args.out_stride),
                          table_rows<int64_t>(positions, args.positions_stride), has_positions},
                    args.partials, num_lookups, group.dim);
  int64_t* const long_bags =
      long_bags_in(args.partials, num_lookups, max_slot_bytes(group.dim, group.dtype));
  if (const int error = note_no_long_bags(long_bags, num_lookups, stream); error != cudaSuccess) {
    return error;
  }
  const auto launch = [&]<int N>() -> int {
    const FeatureReader<T, N> rows(group, features);
    const int error = launch_segments<T, N, Max<T, N, Place>>(
        FeatureBags<A, true>(list, group.lookups.weights, long_bags), group.lookups.num_bags,
        group.dim, rows, output, stream, static_cast<unsigned>(features.size()));
    if (error != cudaSuccess) return error;
    return launch_long_maxima<T, N>(FeatureBags<A, false>(list, group.lookups.weights, long_bags),
                                    num_lookups, rows, FeatureReader<T, 1>(group, features), output,
                                    stream);
  };
  // Positions are stored two at a time.
  const void* const least_position = least_aligned(positions, [](int64_t* row) { return row; });
  if (has_positions && (!is_aligned(least_position, kAccessBytes) || args.positions_stride % 2)) {
    return launch.template operator()<1>();
  }
  const void* const least = least_aligned(out, [](void* row) { return row; });
  return visit_feature_width<T>(group, features, least, args.out_stride, launch);
}

}  // namespace

int launch_feature_maxima(const FeatureMaxima& args, Stream stream) {
  if (args.group.lookups.num_bags == 0 || args.group.dim == 0) return cudaSuccess;
  return for_each_launch(args.group.features, [&](auto features, size_t first) {
    return visit(args.group.dtype,
                 [&]<typename T>(T) { return launch_maxima<T>(args, features, first, stream); });
  });
}

}  // namespace myemb::cuda
