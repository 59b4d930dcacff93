// What backward has to know about bags: whether their offsets hold, how many lookups they count,
// and the bag and weight of each lookup.

#include <cuda/kernels/check_bags.h>
#include <cuda/launch.h>
#include <cuda/kernels/count.cuh>
#include <cuda/kernels/mark_maxima.cuh>
#include <cuda/kernels/reduce.cuh>
#include <cuda/kernels/refuse.cuh>

namespace myemb::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) check_offsets(const OffsetsCheck args) {
#pragma unroll 1
  for (int64_t batch = blockIdx.y; batch < args.batches; batch += gridDim.y) {
    const int64_t* offsets = args.offsets + batch * args.count;
#pragma unroll 1
    for (int64_t i = thread_index(); i < args.count; i += thread_count()) {
      const int64_t begin = offsets[i];
      const bool last = i + 1 == args.count;
      const int64_t end = last ? args.num_lookups : offsets[i + 1];
      assert((i > 0 || begin == 0) && "myemb::embedding_bag: offsets[0] has to be 0");
      assert(begin <= end &&
             "myemb::embedding_bag: offsets must not decrease, nor exceed the number of indices");
      assert(!(last && args.include_last_offset && begin != end) &&
             "myemb::embedding_bag: with include_last_offset, offsets[-1] has to be the number of "
             "indices");
    }
  }
}

// What a bag counts: all lookups but padding.
struct Counted {
  const BagLookups& lookups;
  __device__ bool operator()(int64_t i) const {
    return load_index(lookups.indices, i) != lookups.padding_idx;
  }
};

// A warp for each window of kChunk lookups.
__global__ void __launch_bounds__(kThreads)
    count_windows(const BagLookups lookups, int32_t* window_counts) {
  const ThreadGroup warp(kWarp);
  const int64_t count = lookups.indices.count;
#pragma unroll 1
  for (int64_t window = warp.first_in_warp(); window * kChunk < count; window += warp.count()) {
    const int64_t begin = window * kChunk;
    const int64_t counted = count_some(warp, Counted{lookups}, begin, min(begin + kChunk, count));
    if (warp.lane() == 0) window_counts[window] = static_cast<int32_t>(counted);
  }
}

// A warp for each bag.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    count_bags(const BagLookups lookups, const int32_t* window_counts, bool inverse, A* divisors) {
  const ThreadGroup warp(kWarp);
#pragma unroll 1
  for (int64_t bag = warp.first_in_warp(); bag < lookups.bags.count; bag += warp.count()) {
    const int64_t begin = lookups.bags.begin(bag), end = lookups.bags.end(bag);
    const int64_t counted = lookups.padding_idx < 0
                                ? end - begin
                                : count_bag(warp, Counted{lookups}, window_counts, begin, end);
    if (warp.lane() == 0) divisors[bag] = divisor_of<A>(counted, inverse);
  }
}

template <typename A>
__global__ void __launch_bounds__(kThreads) find_sources(const LookupSources args) {
  const auto* weights = static_cast<const A*>(args.lookups.weights);
  const auto* divisors = static_cast<const A*>(args.divisors);
#pragma unroll 1
  for (int64_t i = thread_index(); i < args.lookups.indices.count; i += thread_count()) {
    const int64_t index = load_index(args.lookups.indices, i);
    if (!is_row(index, args.lookups.num_rows)) refuse_index(args.op);
    const int64_t bag = find_bag(args.lookups.bags, i);
    args.bag_of[i] = index == args.lookups.padding_idx ? -1 : bag;
    if (!args.weight_of) continue;
    const A weight = weights ? weights[i] : A(1);
    static_cast<A*>(args.weight_of)[i] = divisors ? weight / divisors[bag] : weight;
  }
}

struct MaximaPlaces {
  Segments bags;
  const int64_t* first;
  int64_t dim;

  __device__ int64_t begin(int64_t bag) const { return bags.begin(bag); }
  __device__ int64_t end(int64_t bag) const { return bags.end(bag); }
  __device__ const int64_t* positions(int64_t bag) const { return first + bag * dim; }
};

// A warp for each bag.
__global__ void __launch_bounds__(kThreads) check_bags(const Shape shape, const Bags<float> bags) {
  const ThreadGroup warp(shape.group_size);
  Faults faults = 0;
  const Segment segment = bags.segment(shape.item(warp), faults);
#pragma unroll 1
  for (int64_t i = segment.begin + warp.lane(); i < segment.end; i += kWarp) bags.lookup(i, faults);
  bags.refuse(faults);
}

}  // namespace

int launch_bags_check(const BagLookups& lookups, Stream stream) {
  BagLookups unweighted = lookups;
  unweighted.weights = nullptr;
  return launch_shapes(kWarp, lookups.bags.count, 1, 1,
                       [&](dim3 grid, unsigned threads, const Shape& shape) {
                         check_bags<<<grid, threads, 0, stream>>>(shape, Bags<float>(unweighted));
                       });
}

int launch_offsets_check(const OffsetsCheck& args, Stream stream) {
  if (args.count == 0 || args.batches == 0) return cudaSuccess;
  dim3 grid = grid_for(args.count, 1, args.batches);
  check_offsets<<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

int launch_bag_divisors(const BagDivisors& args, Stream stream) {
  const int64_t count = args.lookups.indices.count;
  if (args.lookups.bags.count == 0) return cudaSuccess;
  if (args.lookups.padding_idx >= 0 && count >= kChunk) {
    const dim3 grid = grid_for((count + kChunk - 1) / kChunk, kWarp);
    count_windows<<<grid, kThreads, 0, stream>>>(args.lookups, args.window_counts);
  }
  const dim3 grid = grid_for(args.lookups.bags.count, kWarp);
  if (args.dtype == Dtype::Double) {
    count_bags<<<grid, kThreads, 0, stream>>>(args.lookups, args.window_counts, args.inverse,
                                              static_cast<double*>(args.divisors));
  } else {
    count_bags<<<grid, kThreads, 0, stream>>>(args.lookups, args.window_counts, args.inverse,
                                              static_cast<float*>(args.divisors));
  }
  return cudaGetLastError();
}

int launch_lookup_sources(const LookupSources& args, Stream stream) {
  const int64_t count = args.lookups.indices.count;
  if (count == 0) return cudaSuccess;
  const dim3 grid = grid_for(count, 1);
  if (args.dtype == Dtype::Double) {
    find_sources<double><<<grid, kThreads, 0, stream>>>(args);
  } else {
    find_sources<float><<<grid, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

int launch_bag_maxima(const BagMaxima& args, Stream stream) {
  if (args.bags.count == 0 || args.dim == 0) return cudaSuccess;
  mark_maxima<<<grid_for_maxima(args.bags.count), kThreads, 0, stream>>>(
      MaximaPlaces{args.bags, args.positions, args.dim}, args.bags.count, args.dim, args.maxima);
  return cudaGetLastError();
}

int launch_zero(void* data, size_t bytes, Stream stream) {
  return bytes == 0 ? cudaSuccess : cudaMemsetAsync(data, 0, bytes, stream);
}

}  // namespace myemb::cuda
