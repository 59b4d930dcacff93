// group by row: CUB's stable radix sort of the lookups, on as many bits as a row number has.

#include <cuda/launch.h>
#include <cuda/kernels/reduce.cuh>
#include <cuda/kernels/refuse.cuh>

#include <cub/device/device_radix_sort.cuh>

#include <bit>

namespace myemb::cuda {
namespace {

// Row numbers and payloads in 32 bits where that is enough: half the bytes to sort.
bool needs_wide(int64_t num_lookups, int64_t num_rows) {
  return num_lookups > INT32_MAX || num_rows > UINT32_MAX;
}

int bits_of(int64_t num_rows) { return std::bit_width(static_cast<uint64_t>(num_rows)); }

// Padding gets the row behind the last, so that it ends up behind all others.
template <typename Row, typename Payload>
__global__ void __launch_bounds__(kThreads)
    number_lookups(const Indices indices, int64_t num_rows, int64_t padding_idx,
                   const Segments bags, bool by_bag, Op op, Row* rows, Payload* payloads) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < indices.count;
       i += step) {
    const int64_t index = load_index(indices, i);
    if (!is_row(index, num_rows)) refuse_index(op);
    rows[i] = static_cast<Row>(index == padding_idx ? num_rows : index);
    payloads[i] = static_cast<Payload>(by_bag ? find_bag(bags, i) : i);
  }
}

// The scratch memory of a sort: two copies of rows and of payloads, and what CUB needs.
template <typename Row, typename Payload>
struct SortBuffers {
  static constexpr size_t kAlignment = 256;

  SortBuffers(void* scratch, int64_t count)
      : rows(take<Row>(scratch, count)),
        sorted_rows(take<Row>(scratch, count)),
        payloads(take<Payload>(scratch, count)),
        sorted_payloads(take<Payload>(scratch, count)),
        temporary(scratch) {}

  static size_t bytes(int64_t count) {
    return 2 * (aligned(count * sizeof(Row)) + aligned(count * sizeof(Payload)));
  }

  Row* rows;
  Row* sorted_rows;
  Payload* payloads;
  Payload* sorted_payloads;
  void* temporary;

 private:
  static size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  template <typename T>
  static T* take(void*& scratch, int64_t count) {
    T* taken = static_cast<T*>(scratch);
    scratch = static_cast<char*>(scratch) + aligned(count * sizeof(T));
    return taken;
  }
};

template <typename Row, typename Payload>
cudaError_t sort(const SortBuffers<Row, Payload>& buffers, size_t& temporary_bytes, int64_t count,
                 int64_t num_rows, bool only_size, cudaStream_t stream) {
  return cub::DeviceRadixSort::SortPairs(only_size ? nullptr : buffers.temporary, temporary_bytes,
                                         buffers.rows, buffers.sorted_rows, buffers.payloads,
                                         buffers.sorted_payloads, static_cast<Payload>(count), 0,
                                         bits_of(num_rows), stream);
}

template <typename Row, typename Payload>
size_t temporary_bytes(int64_t count, int64_t num_rows) {
  size_t bytes = 0;
  sort(SortBuffers<Row, Payload>(nullptr, count), bytes, count, num_rows, true, nullptr);
  return bytes;
}

template <typename Row, typename Payload>
int group(const GroupByRow& args, Groups* groups, cudaStream_t stream) {
  const int64_t count = args.indices.count;
  const SortBuffers<Row, Payload> buffers(args.scratch, count);
  *groups = {buffers.sorted_rows, buffers.sorted_payloads, sizeof(Row) == 8, count, args.num_rows};
  if (count == 0) return cudaSuccess;
  number_lookups<<<grid_for(count, 1), kThreads, 0, stream>>>(
      args.indices, args.num_rows, args.padding_idx, args.bags ? *args.bags : Segments{},
      args.bags != nullptr, args.op, buffers.rows, buffers.payloads);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  size_t bytes = temporary_bytes<Row, Payload>(count, args.num_rows);
  return sort(buffers, bytes, count, args.num_rows, false, stream);
}

// A thread for each lookup: how often its row occurs is the length of its run.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    divide_by_frequency(const SortedLookups sorted, const A* weights_in, A* weights) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < sorted.count();
       i += step) {
    const int64_t row = sorted.row(i);
    const int64_t frequency =
        sorted.lower_bound(row + 1, i, sorted.count()) - sorted.lower_bound(row, 0, i);
    const int64_t lookup = sorted.payload(i);
    weights[lookup] = (weights_in ? weights_in[lookup] : A(1)) / static_cast<A>(frequency);
  }
}

}  // namespace

size_t groups_bytes(int64_t num_lookups, int64_t num_rows) {
  if (needs_wide(num_lookups, num_rows)) {
    return SortBuffers<uint64_t, int64_t>::bytes(num_lookups) +
           temporary_bytes<uint64_t, int64_t>(num_lookups, num_rows);
  }
  return SortBuffers<uint32_t, int32_t>::bytes(num_lookups) +
         temporary_bytes<uint32_t, int32_t>(num_lookups, num_rows);
}

int launch_group_by_row(const GroupByRow& args, Groups* groups, Stream stream) {
  if (needs_wide(args.indices.count, args.num_rows)) {
    return group<uint64_t, int64_t>(args, groups, stream);
  }
  return group<uint32_t, int32_t>(args, groups, stream);
}

int launch_frequency_weights(const FrequencyWeights& args, Stream stream) {
  if (args.groups.count == 0) return cudaSuccess;
  const dim3 grid = grid_for(args.groups.count, 1);
  const SortedLookups sorted(args.groups);
  if (args.dtype == Dtype::Double) {
    divide_by_frequency<<<grid, kThreads, 0, stream>>>(
        sorted, static_cast<const double*>(args.weights_in), static_cast<double*>(args.weights));
  } else {
    divide_by_frequency<<<grid, kThreads, 0, stream>>>(
        sorted, static_cast<const float*>(args.weights_in), static_cast<float*>(args.weights));
  }
  return cudaGetLastError();
}

}  // namespace myemb::cuda
