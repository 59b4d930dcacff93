#pragma once

// Work is shared out by rows: neighbouring threads of a warp, as many as a row needs and no more,
// work on one row, side by side in its columns.
//
// All groups of a warp go through a kernel together: loops run until the last of them is done, the
// others idle along, which costs what divergence would have cost. Every exchange between threads is
// then one of the whole warp, whose mask is a constant; a mask that the compiler cannot see costs
// it a search for the threads that take part, each time.

#include <cstdint>

namespace myemb::cuda {

inline constexpr int kThreads = 256;  // of a block, at most
inline constexpr int kWarp = 32;
inline constexpr unsigned kWholeWarp = ~0u;

class ThreadGroup {
 public:
  // size: 1, 2, 4, ..., 32; the same for the whole launch.
  __device__ explicit ThreadGroup(int size)
      : size_(size), lane_(static_cast<int>(threadIdx.x) & (size - 1)) {}

  __device__ int size() const { return size_; }
  __device__ int lane() const { return lane_; }

  // The groups of a launch, numbered: how many there are, this one, the first one of this warp, and
  // by how much this one is behind it.
  __device__ int64_t count() const { return (int64_t{gridDim.x} * kThreads) >> bits(); }
  __device__ int64_t first_in_warp() const {
    return (int64_t{blockIdx.x} * kThreads + (threadIdx.x & ~(kWarp - 1))) >> bits();
  }
  __device__ int64_t index() const {
    return (int64_t{blockIdx.x} * kThreads + threadIdx.x) >> bits();
  }
  __device__ int in_block() const { return static_cast<int>(threadIdx.x) >> bits(); }
  __device__ int in_warp() const { return (threadIdx.x & (kWarp - 1)) >> bits(); }

  // The value that thread `lane` of the group has.
  template <typename V>
  __device__ V from(V value, int lane) const {
    return __shfl_sync(kWholeWarp, value, lane, size_);
  }

  template <typename V>
  __device__ const V* from(const V* value, int lane) const {
    return reinterpret_cast<const V*>(from(reinterpret_cast<unsigned long long>(value), lane));
  }

  // Bit j: what thread j says.
  __device__ unsigned vote(bool says) const {
    const unsigned votes = __ballot_sync(kWholeWarp, says) >> (in_warp() << bits());
    return votes & (kWholeWarp >> (kWarp - size_));
  }

  __device__ int sum(int value) const {
    for (int step = size_ / 2; step > 0; step /= 2)
      value += __shfl_xor_sync(kWholeWarp, value, step);
    return value;
  }

 private:
  __device__ int bits() const { return __ffs(size_) - 1; }

  int size_;
  int lane_;
};

// Whether a thread of any group in the warp says so.
__device__ __forceinline__ bool any_in_warp(bool says) { return __any_sync(kWholeWarp, says); }

}  // namespace myemb::cuda
