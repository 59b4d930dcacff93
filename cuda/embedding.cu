#include <cuda/launch.h>

#include <cuda_runtime.h>

#include <algorithm>

#undef NDEBUG  // a bad index must stop the kernel in release builds, too
#include <cassert>

namespace myemb::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65535;

// One thread for each Word of the output, neighbours in a row next to each other in a warp; a word
// is the widest that pointers, strides and row length allow.
template <typename Word, typename Index>
__global__ void lookup_kernel(Lookup args) {
  const int64_t words_per_row = args.row_bytes / static_cast<int64_t>(sizeof(Word));
  const int64_t words = args.num_lookups * words_per_row;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const auto* indices = static_cast<const Index*>(args.indices);
  for (int64_t w = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; w < words;
       w += step) {
    const int64_t lookup = w / words_per_row;
    const int64_t index = indices[lookup];
    assert(index >= 0 && index < args.num_rows && "myemb::embedding: index out of range");
    const auto* row = static_cast<const char*>(args.rows) + index * args.row_stride_bytes;
    static_cast<Word*>(args.out)[w] =
        reinterpret_cast<const Word*>(row)[w - lookup * words_per_row];
  }
}

template <typename Word>
int launch(const Lookup& args, Stream stream) {
  const int64_t words = args.num_lookups * (args.row_bytes / static_cast<int64_t>(sizeof(Word)));
  const auto blocks =
      static_cast<unsigned>(std::min((words + kThreads - 1) / kThreads, kMaxBlocks));
  if (args.indices_are_int64) {
    lookup_kernel<Word, int64_t><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    lookup_kernel<Word, int32_t><<<blocks, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

bool divides(int64_t width, const Lookup& args) {
  const auto address =
      reinterpret_cast<uintptr_t>(args.rows) | reinterpret_cast<uintptr_t>(args.out);
  return (static_cast<int64_t>(address) | args.row_bytes | args.row_stride_bytes) % width == 0;
}

}  // namespace

int launch_lookup(const Lookup& args, Stream stream) {
  if (args.num_lookups == 0 || args.row_bytes == 0) return cudaSuccess;
  if (divides(16, args)) return launch<uint4>(args, stream);
  if (divides(8, args)) return launch<uint2>(args, stream);
  if (divides(4, args)) return launch<uint32_t>(args, stream);
  if (divides(2, args)) return launch<uint16_t>(args, stream);
  return launch<uint8_t>(args, stream);
}

}  // namespace myemb::cuda
