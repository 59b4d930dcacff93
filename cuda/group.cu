// group by row: CUB's stable radix sort of the lookups, on as many bits as a row number has.

#include <cuda/kernels/number_tables.h>
#include <cuda/launch_tables.h>
#include <cuda/kernels/reduce.cuh>
#include <cuda/kernels/refuse.cuh>

#include <cub/device/device_radix_sort.cuh>

#include <bit>

namespace myemb::cuda {
namespace {

// Row numbers and payloads in 32 bits where that is enough: half the bytes to sort.
bool needs_wide(const GroupByRow& args) {
  const int64_t num_bags = args.bags ? args.bags->count : 0;
  return std::max(args.indices.count, num_bags) > INT32_MAX || args.num_rows > UINT32_MAX;
}

bool needs_wide(const GroupTables& args) {
  const int64_t count = args.lookups.indices.count;
  return std::max(count, args.largest_payload) > INT32_MAX || args.num_rows > UINT32_MAX;
}

// Padding gets the row behind the last, so that it ends up behind all others.
template <typename Row, typename Payload>
__global__ void __launch_bounds__(kThreads)
    number_lookups(const Indices indices, int64_t num_rows, int64_t padding_idx,
                   const Segments bags, bool by_bag, Op op, Row* rows, Payload* payloads) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 1
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < indices.count;
       i += step) {
    const int64_t index = load_index(indices, i);
    if (!is_row(index, num_rows)) refuse_index(op);
    rows[i] = static_cast<Row>(index == padding_idx ? num_rows : index);
    payloads[i] = static_cast<Payload>(by_bag ? find_bag(bags, i) : i);
  }
}

// The scratch memory of a sort: rows and payloads, each twice, and what CUB needs. A pass goes from
// one copy to the other; where the last one ended is known on the host.
template <typename Row, typename Payload>
class Sorter {
 public:
  Sorter(void* scratch, int64_t count, int64_t num_rows)
      : rows_(take<Row>(scratch, count), take<Row>(scratch, count)),
        payloads_(take<Payload>(scratch, count), take<Payload>(scratch, count)),
        temporary_(scratch),
        count_(count),
        bits_(std::bit_width(static_cast<uint64_t>(num_rows))) {}

  Row* rows() { return rows_.Current(); }
  Payload* payloads() { return payloads_.Current(); }

  size_t bytes() {
    return 2 * (aligned(count_ * sizeof(Row)) + aligned(count_ * sizeof(Payload))) +
           temporary_bytes();
  }

  cudaError_t sort(cudaStream_t stream) {
    size_t bytes = temporary_bytes();
    return cub::DeviceRadixSort::SortPairs(temporary_, bytes, rows_, payloads_,
                                           static_cast<Payload>(count_), 0, bits_, stream);
  }

 private:
  static constexpr size_t kAlignment = 256;

  static size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  template <typename T>
  static T* take(void*& scratch, int64_t count) {
    T* taken = static_cast<T*>(scratch);
    scratch = static_cast<char*>(scratch) + aligned(count * sizeof(T));
    return taken;
  }

  size_t temporary_bytes() {
    size_t bytes = 0;
    cub::DeviceRadixSort::SortPairs(nullptr, bytes, rows_, payloads_, static_cast<Payload>(count_),
                                    0, bits_);
    return bytes;
  }

  cub::DoubleBuffer<Row> rows_;
  cub::DoubleBuffer<Payload> payloads_;
  void* temporary_;
  int64_t count_;
  int bits_;
};

// number(rows, payloads) starts what fills both in.
template <typename Row, typename Payload, typename Number>
int group(void* scratch, int64_t count, int64_t num_rows, Groups* groups, cudaStream_t stream,
          const Number& number) {
  Sorter<Row, Payload> sorter(scratch, count, num_rows);
  if (count > 0) {
    if (const int error = number(sorter.rows(), sorter.payloads()); error != cudaSuccess) {
      return error;
    }
    if (const cudaError_t error = sorter.sort(stream); error != cudaSuccess) return error;
  }
  *groups = {sorter.rows(), sorter.payloads(), sizeof(Row) == 8, count, num_rows};
  return cudaSuccess;
}

template <typename Number>
int group(bool wide, void* scratch, int64_t count, int64_t num_rows, Groups* groups,
          cudaStream_t stream, const Number& number) {
  return wide ? group<uint64_t, int64_t>(scratch, count, num_rows, groups, stream, number)
              : group<uint32_t, int32_t>(scratch, count, num_rows, groups, stream, number);
}

size_t sort_bytes(bool wide, int64_t count, int64_t num_rows) {
  return wide ? Sorter<uint64_t, int64_t>(nullptr, count, num_rows).bytes()
              : Sorter<uint32_t, int32_t>(nullptr, count, num_rows).bytes();
}

// A thread for each lookup: how often its row occurs is the length of its run.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    divide_by_frequency(const SortedLookups sorted, const A* weights_in, A* weights) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 1
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

size_t groups_bytes(const GroupByRow& args) {
  return sort_bytes(needs_wide(args), args.indices.count, args.num_rows);
}

int launch_group_by_row(const GroupByRow& args, Groups* groups, Stream stream) {
  const int64_t count = args.indices.count;
  return group(needs_wide(args), args.scratch, count, args.num_rows, groups, stream,
               [&](auto* rows, auto* payloads) -> int {
                 number_lookups<<<grid_for(count, 1), kThreads, 0, stream>>>(
                     args.indices, args.num_rows, args.padding_idx,
                     args.bags ? *args.bags : Segments{}, args.bags != nullptr, args.op, rows,
                     payloads);
                 return cudaGetLastError();
               });
}

size_t groups_bytes(const GroupTables& args) {
  return sort_bytes(needs_wide(args), args.lookups.indices.count, args.num_rows);
}

int launch_group_tables(const GroupTables& args, Groups* groups, Stream stream) {
  const bool wide = needs_wide(args);
  return group(wide, args.scratch, args.lookups.indices.count, args.num_rows, groups, stream,
               [&](auto* rows, auto* payloads) {
                 return launch_number_tables(args, rows, payloads, wide, stream);
               });
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
