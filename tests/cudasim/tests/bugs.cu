// Each kernel exists twice: kBroken has the bug, and the comment `// BUG: name` marks the line that
// must be reported.
#include <cuda_runtime.h>

#undef NDEBUG
#include <cassert>

#include "bugs.h"

namespace cudasim_test {
namespace {

constexpr int kThreads = 128;

template <bool kBroken>
__global__ void missing_syncthreads(Arrays a) {
  __shared__ int tile[kThreads];
  tile[threadIdx.x] = a.in[threadIdx.x];
  if (!kBroken) __syncthreads();
  a.out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];  // BUG: missing_syncthreads
}

template <bool kBroken>
__global__ void missing_syncwarp(Arrays a) {
  __shared__ int tile[32];
  tile[threadIdx.x] = a.in[threadIdx.x];
  if (!kBroken) __syncwarp();
  a.out[threadIdx.x] = tile[31 - threadIdx.x];  // BUG: missing_syncwarp
}

template <bool kBroken>
__global__ void histogram(Arrays a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.size) return;
  if (kBroken) {
    a.out[a.in[i] % 8] += 1;  // BUG: histogram_without_atomics
  } else {
    atomicAdd(a.out + a.in[i] % 8, 1);
  }
}

template <bool kBroken>
__global__ void blocks_write_one_word(Arrays a) {
  if (threadIdx.x == 0) {
    a.out[kBroken ? 0 : blockIdx.x] = static_cast<int>(blockIdx.x);  // BUG: blocks_write_one_word
  }
}

template <bool kBroken>
__global__ void plain_and_atomic(Arrays a) {
  if (blockIdx.x == 0) {
    atomicAdd(a.out, 1);  // BUG: plain_and_atomic
  } else if (kBroken) {
    a.out[0] = 7;  // BUG: plain_and_atomic
  } else {
    atomicExch(a.out, 7);
  }
}

template <bool kBroken>
__global__ void index_past_the_end(Arrays a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < a.size + (kBroken ? 1 : 0)) a.out[i] = a.in[i];  // BUG: index_past_the_end
}

template <bool kBroken>
__global__ void shared_overrun(Arrays a) {
  __shared__ int first[kThreads];
  __shared__ int second[kThreads];
  const int shift = kBroken ? a.size - 2 * kThreads + 1 : 0;
  first[threadIdx.x + shift] = a.in[threadIdx.x];  // BUG: shared_overrun
  second[threadIdx.x] = 2;
  __syncthreads();
  a.out[threadIdx.x] = first[kThreads - 1 - threadIdx.x] + second[kThreads - 1 - threadIdx.x];
}

template <bool kBroken>
__global__ void uninitialised_shared(Arrays a) {
  __shared__ int tile[kThreads];
  if (!kBroken || threadIdx.x < kThreads / 2) tile[threadIdx.x] = a.in[threadIdx.x];
  __syncthreads();
  a.out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];  // BUG: uninitialised_shared
}

template <bool kBroken>
__global__ void uninitialised_global(Arrays a) {
  if (!kBroken) a.out[threadIdx.x] = 0;
  a.out[threadIdx.x] += a.in[threadIdx.x];  // BUG: uninitialised_global
}

template <bool kBroken>
__global__ void misaligned_vector(Arrays a) {
  const int4* vectors = reinterpret_cast<const int4*>(a.in + (kBroken ? 1 : 0));
  reinterpret_cast<int4*>(a.out)[threadIdx.x] = vectors[threadIdx.x];  // BUG: misaligned_vector
}

template <bool kBroken>
__global__ void threads_left_before_barrier(Arrays a) {
  __shared__ int tile[kThreads];
  const bool outside = kBroken && threadIdx.x >= 100;
  if (outside) return;
  tile[threadIdx.x] = a.in[threadIdx.x];
  __syncthreads();  // BUG: threads_left_before_barrier
  a.out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

template <bool kBroken>
__global__ void different_barriers(Arrays a) {
  if (kBroken && threadIdx.x < 64) {
    a.out[threadIdx.x] = 1;
    asm volatile("barrier.sync 0;" ::: "memory");  // BUG: different_barriers
  } else {
    a.out[threadIdx.x] = 2;
    asm volatile("barrier.sync 0;" ::: "memory");  // BUG: different_barriers
  }
}

template <bool kBroken>
__global__ void shuffle_after_lanes_left(Arrays a) {
  const int lane = static_cast<int>(threadIdx.x);
  if (kBroken && lane >= 20) return;
  a.out[lane] = __shfl_down_sync(~0u, a.in[lane], 16);  // BUG: shuffle_after_lanes_left
}

template <bool kBroken>
__global__ void shuffle_in_one_branch(Arrays a) {
  int value = a.in[threadIdx.x];
  if (!kBroken || threadIdx.x < 16) {
    value = __shfl_xor_sync(~0u, value, 1);  // BUG: shuffle_in_one_branch
  } else {
    __syncwarp(0xffff0000u);
  }
  a.out[threadIdx.x] = value;
  __syncwarp();
}

template <bool kBroken>
__global__ void wrong_member_mask(Arrays a) {
  int value = a.in[threadIdx.x];
  if (threadIdx.x < 16)
    value = __shfl_xor_sync(kBroken ? 0xffu : 0xffffu, value, 1);  // BUG: wrong_member_mask
  a.out[threadIdx.x] = value;
}

template <bool kBroken>
__global__ void failing_assert(Arrays a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  assert(i < a.size - (kBroken ? 1 : 0) && "row index is out of range");  // BUG: failing_assert
  a.out[i] = a.in[i];
}

template <bool kBroken>
__global__ void read_only_load_of_written_data(Arrays a) {
  int* in = a.in;
  in[threadIdx.x] = 3;
  __syncthreads();
  int value;
  if (kBroken) {
    value = __ldg(in + threadIdx.x);  // BUG: read_only_load_of_written_data
  } else {
    value = in[threadIdx.x];
  }
  a.out[threadIdx.x] = value;
}

template <bool kBroken>
__global__ void null_pointer(Arrays a) {
  int* out = kBroken ? a.out - (reinterpret_cast<uintptr_t>(a.out) / sizeof(int)) : a.out;
  out[threadIdx.x] = 1;  // BUG: null_pointer
}

// Block 0 sends a message to block 1: data, then a flag. Without a fence the flag may come first.
template <bool kBroken>
__global__ void message_without_fence(Arrays a) {
  volatile int* flag = a.in + a.size - 1;
  if (blockIdx.x == 0) {
    a.in[threadIdx.x] = 5;
    if (!kBroken) __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *flag = 1;
  } else {
    while (*flag != 1) {
    }
    __threadfence();
    a.out[threadIdx.x] = a.in[31 - threadIdx.x];  // BUG: message_without_fence
  }
}

// The block that comes last adds up what all blocks have written.
template <bool kBroken>
__global__ void last_block_without_fence(Arrays a) {
  __shared__ bool last;
  a.in[blockIdx.x * 32 + threadIdx.x] = threadIdx.x;
  if (!kBroken) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0)
    last = atomicAdd(a.in + a.size - 1, 1) == a.size - 1 + static_cast<int>(gridDim.x) - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  int sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block)
    sum += a.in[block * 32 + threadIdx.x];  // BUG: last_block_without_fence
  a.out[threadIdx.x] = sum;
}

__global__ void infinite_loop(Arrays a) {
  volatile int* flag = a.in;
  while (*flag == 0) {  // BUG: infinite_loop
  }
  a.out[0] = 1;
}

template <auto kKernel, int kBlocks, int kThreadsPerBlock>
void launch(Arrays a) {
  kKernel<<<kBlocks, kThreadsPerBlock>>>(a);
}

}  // namespace

void launch_infinite_loop(Arrays a) { infinite_loop<<<1, 32>>>(a); }

#define BUG_CASE(kernel, blocks, threads, report)                                                  \
  {#kernel, launch<kernel<true>, blocks, threads>, launch<kernel<false>, blocks, threads>, report, \
   #kernel}

const BugCase kBugCases[] = {
    BUG_CASE(missing_syncthreads, 1, kThreads, "data race in shared memory"),
    BUG_CASE(missing_syncwarp, 1, 32, "data race in shared memory"),
    {"histogram_without_atomics", launch<histogram<true>, 2, kThreads>,
     launch<histogram<false>, 2, kThreads>, "data race in global memory",
     "histogram_without_atomics"},
    BUG_CASE(blocks_write_one_word, 2, 32,
             "data race in global memory (write after write) with another block"),
    BUG_CASE(plain_and_atomic, 2, 1, "data race in global memory"),
    BUG_CASE(index_past_the_end, 3, kThreads, "0 bytes past the end of a 1024-byte allocation"),
    BUG_CASE(shared_overrun, 1, kThreads, "shared memory out of bounds: write of 4 bytes"),
    BUG_CASE(uninitialised_shared, 1, kThreads, "read of uninitialised shared memory"),
    BUG_CASE(uninitialised_global, 1, kThreads, "read of uninitialised global memory"),
    BUG_CASE(misaligned_vector, 1, 32, "misaligned read of 16 bytes"),
    BUG_CASE(threads_left_before_barrier, 1, kThreads, "28 threads of the block had left"),
    BUG_CASE(different_barriers, 1, kThreads, "threads of a block wait at different barriers"),
    BUG_CASE(shuffle_after_lanes_left, 1, 32, "which takes no part"),
    BUG_CASE(shuffle_in_one_branch, 1, 32,
             "lanes wait for lanes of their member mask that never come"),
    BUG_CASE(wrong_member_mask, 1, 32, "not in its own member mask"),
    BUG_CASE(failing_assert, 2, kThreads, "row index is out of range"),
    BUG_CASE(read_only_load_of_written_data, 1, kThreads, "read-only (.nc) load of global memory"),
    BUG_CASE(message_without_fence, 2, 32, "data race in global memory (read after write)"),
    BUG_CASE(last_block_without_fence, 6, 32, "data race in global memory (read after write)"),
    BUG_CASE(null_pointer, 1, 32, "a null pointer"),
};
const int kBugCaseCount = sizeof kBugCases / sizeof *kBugCases;

}  // namespace cudasim_test
