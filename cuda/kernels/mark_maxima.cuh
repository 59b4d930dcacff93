#pragma once

// Which maxima each lookup gave: what mode max going backward reads of a lookup, one bit for each
// column where the position of the maximum takes 64.

#include <cuda/launch.h>
#include <cuda/kernels/count.cuh>
#include <cuda/kernels/shape.cuh>

namespace myemb::cuda {

static_assert(Maxima::kWordBits == kWarp);

// A warp for each bag: the threads whose maxima are one lookup's have its word together, and one of
// them writes it. Words that no maximum is in are not written.
//
//   struct Places {
//     __device__ int64_t begin(int64_t bag) const;  // the lookups of a bag
//     __device__ int64_t end(int64_t bag) const;
//     __device__ const int64_t* positions(int64_t bag) const;
//   };
template <typename Places>
__global__ void __launch_bounds__(kThreads)
    mark_maxima(const Places places, int64_t num_bags, int64_t dim, const Maxima maxima) {
  constexpr int kWords = 4;  // in flight
  const ThreadGroup warp(kWarp);
#pragma unroll 1
  for (int64_t bag = warp.first_in_warp(); bag < num_bags; bag += warp.count()) {
    const int64_t begin = places.begin(bag), end = places.end(bag);
    const int64_t* const positions = places.positions(bag);
    const bool is_long = end - begin > UINT32_MAX;
#pragma unroll 1
    for (int64_t first = 0; first * kWarp < dim; first += kWords) {
      int64_t found[kWords];
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        const int64_t column = (first + w) * kWarp + warp.lane();
        found[w] = column < dim ? positions[column] : -1;
      }
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        const bool is_one = found[w] >= begin && found[w] < end;
        const int64_t place = is_one ? found[w] - begin : -1;
        const unsigned same = is_long ? __match_any_sync(kWholeWarp, static_cast<long long>(place))
                                      : __match_any_sync(kWholeWarp, static_cast<unsigned>(place));
        const bool is_first = warp.lane() == __ffs(static_cast<int>(same)) - 1;
        if (is_one && is_first) maxima.words[found[w] * maxima.stride + first + w] = same;
      }
    }
  }
}

// x: bags, z: features.
inline dim3 grid_for_maxima(int64_t num_bags, size_t features = 1) {
  dim3 grid = grid_for(num_bags, kWarp);
  grid.z = static_cast<unsigned>(features);
  return grid;
}

}  // namespace myemb::cuda
