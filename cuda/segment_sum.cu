// gather-reduce by addition over the bags of a table: modes sum and mean.

#include <cuda/kernels/check_bags.h>
#include <cuda/kernels/width.h>
#include <cuda/launch.h>
#include <cuda/kernels/sum.cuh>

namespace myemb::cuda {

size_t sum_partials_bytes(int64_t num_lookups, int64_t dim, Dtype dtype) {
  return partials_bytes(num_lookups, sum_slot_bytes(dim, dtype));
}

int launch_bag_sum(const BagSum& args, Stream stream) {
  const Segments& bags = args.lookups.bags;
  if (bags.count == 0) return cudaSuccess;
  if (has_nothing_to_read(args.rows, args.lookups)) return launch_bags_check(args.lookups, stream);
  const int64_t num_lookups = lookups_in_chunks(args.lookups);
  int64_t* const long_bags =
      long_bags_in(args.partials, num_lookups, sum_slot_bytes(args.rows.dim, args.rows.dtype));
  return visit(args.rows.dtype, [&]<typename T>(T) {
    const auto output =
        sum_output<T>(args.out, args.partials, num_lookups, args.rows.dim, args.average);
    return visit_width<T>(args.rows, args.out, [&]<int N>() -> int {
      const Bags<Accumulator<T>> source(args.lookups, long_bags);
      const RowReader<T, N> rows = reader_of<T, N>(args.rows);
      const int error =
          launch_segments<T, N, Sum<T, N>>(source, bags.count, output.dim, rows, output, stream);
      if (error != cudaSuccess) return error;
      return launch_long_sums<T, N>(source, num_lookups, rows, output, stream);
    });
  });
}

}  // namespace myemb::cuda
