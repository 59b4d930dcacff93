// The distinct rows of sorted lookups, numbered.

#include <cuda/launch.h>
#include <cuda/kernels/count.cuh>
#include <cuda/kernels/reduce.cuh>

#include <cub/device/device_scan.cuh>

namespace myemb::cuda {
namespace {

// 1 where another row starts than that of the first lookup.
template <typename Row>
__global__ void __launch_bounds__(kThreads) flag_rows(const SortedLookups sorted, Row* flags) {
#pragma unroll 1
  for (int64_t i = thread_index(); i < sorted.count(); i += thread_count()) {
    flags[i] = i > 0 && sorted.row(i) != sorted.row(i - 1);
  }
}

template <typename Row>
__global__ void __launch_bounds__(kThreads)
    store_rows(const SortedLookups sorted, const Row* ranks, int64_t* rows, int64_t* distinct) {
#pragma unroll 1
  for (int64_t i = thread_index(); i < sorted.count(); i += thread_count()) {
    const Row rank = ranks[i];
    if (i == 0 || ranks[i - 1] != rank) rows[rank] = sorted.row(i);
    if (i + 1 == sorted.count()) *distinct = static_cast<int64_t>(rank) + 1;
  }
}

// Flags to ranks, in place.
template <typename Row>
cudaError_t add_up(void* temporary, size_t& bytes, Row* ranks, int64_t count, Stream stream) {
  return cub::DeviceScan::InclusiveSum(temporary, bytes, ranks, ranks, count, stream);
}

template <typename Row>
int number(const NumberRows& args, Stream stream) {
  const int64_t count = args.groups.count;
  const SortedLookups sorted(args.groups);
  auto* const ranks = static_cast<Row*>(args.ranks);
  const dim3 grid = grid_for(count, 1);
  flag_rows<<<grid, kThreads, 0, stream>>>(sorted, ranks);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  size_t bytes = number_rows_bytes(args.groups);
  if (const cudaError_t error = add_up(args.scratch, bytes, ranks, count, stream);
      error != cudaSuccess) {
    return error;
  }
  store_rows<<<grid, kThreads, 0, stream>>>(sorted, ranks, args.rows, args.distinct);
  return cudaGetLastError();
}

}  // namespace

size_t number_rows_bytes(const Groups& groups) {
  size_t bytes = 0;
  if (groups.wide) {
    add_up<uint64_t>(nullptr, bytes, nullptr, groups.count, nullptr);
  } else {
    add_up<uint32_t>(nullptr, bytes, nullptr, groups.count, nullptr);
  }
  return bytes;
}

int launch_number_rows(const NumberRows& args, Stream stream) {
  return args.groups.wide ? number<uint64_t>(args, stream) : number<uint32_t>(args, stream);
}

}  // namespace myemb::cuda
