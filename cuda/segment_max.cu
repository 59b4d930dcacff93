// gather-reduce by maximum, with where each maximum came from.

#include <cuda/kernels/check_bags.h>
#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/max.cuh>

namespace myemb::cuda {
namespace {

template <typename T, int N>
int launch_max(const BagMax& args, int64_t num_lookups, Stream stream) {
  const int64_t dim = args.rows.dim;
  const Bags<Accumulator<T>> bags(
      args.lookups, long_bags_in(args.partials, num_lookups, max_slot_bytes(dim, args.rows.dtype)));
  const auto output = max_output<T>(MaxRows<T>{static_cast<T*>(args.out), args.positions, dim},
                                    args.partials, num_lookups, dim);
  const RowReader<T, N> rows = reader_of<T, N>(args.rows);
  const int error =
      launch_segments<T, N, Max<T, N>>(bags, args.lookups.bags.count, dim, rows, output, stream);
  if (error != cudaSuccess) return error;
  return launch_long_maxima<T, N>(bags, num_lookups, rows, reader_of<T, 1>(args.rows), output,
                                  stream);
}

}  // namespace

size_t max_partials_bytes(int64_t num_lookups, int64_t dim, Dtype dtype) {
  return partials_bytes(num_lookups, max_slot_bytes(dim, dtype));
}

int launch_bag_max(const BagMax& args, Stream stream) {
  const Segments& bags = args.lookups.bags;
  if (bags.count == 0) return cudaSuccess;
  if (has_nothing_to_read(args.rows, args.lookups)) return launch_bags_check(args.lookups, stream);
  const int64_t num_lookups = lookups_in_chunks(args.lookups);
  return visit(args.rows.dtype, [&]<typename T>(T) {
    return visit_width<T>(args.rows, args.out,
                          [&]<int N>() { return launch_max<T, N>(args, num_lookups, stream); });
  });
}

}  // namespace myemb::cuda
