// The lookup itself: rows are copied as words, whatever their dtype.

#include <cuda/launch.h>
#include <cuda/kernels/reduce.cuh>

namespace myemb::cuda {
namespace {

constexpr int kRows = 4;  // copied by a group at once

template <typename Word>
struct CopyArgs {
  const Word* rows;
  int64_t num_rows;
  int64_t words;  // of a row
  int64_t row_stride;
  int64_t word_stride;
  Indices indices;
  Word* out;
};

template <typename Word>
__global__ void __launch_bounds__(kThreads)
    copy_rows(const int group_size, const CopyArgs<Word> args) {
  const ThreadGroup group(group_size);
  const int64_t last = args.indices.count - 1;
#pragma unroll 1
  for (int64_t warp_first = group.first_in_warp() * kRows; warp_first <= last;
       warp_first += group.count() * kRows) {
    const int64_t first = warp_first + group.in_warp() * kRows;
    // Behind the end the last lookup is read again, and not written.
    const int64_t mine = load_index(args.indices, min(first + group.lane() % kRows, last));
    assert(is_row(mine, args.num_rows) && "myemb::embedding: index out of range");
    const Word* rows[kRows];
#pragma unroll
    for (int u = 0; u < kRows; ++u) rows[u] = args.rows + group.from(mine, u) * args.row_stride;
#pragma unroll 1
    for (int64_t w = group.lane(); w < args.words; w += group.size()) {
      Word words[kRows];
#pragma unroll
      for (int u = 0; u < kRows; ++u) words[u] = __ldg(rows[u] + w * args.word_stride);
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        if (first + u <= last) __stwb(args.out + (first + u) * args.words + w, words[u]);
      }
    }
  }
}

template <typename Word>
int launch_copy(const Lookup& args, Stream stream) {
  // A word is a part of an element's row if columns are next to each other, else one element.
  const auto size = static_cast<int64_t>(sizeof(Word));
  const CopyArgs<Word> copy{
      .rows = static_cast<const Word*>(args.rows),
      .num_rows = args.num_rows,
      .words = args.dim * args.element_size / size,
      .row_stride = args.row_stride * args.element_size / size,
      .word_stride = args.column_stride,
      .indices = args.indices,
      .out = static_cast<Word*>(args.out),
  };
  int group_size = kRows;
  while (group_size < kWarp && group_size < copy.words) group_size *= 2;
  const dim3 grid = grid_for((args.indices.count + kRows - 1) / kRows, group_size);
  copy_rows<Word><<<grid, kThreads, 0, stream>>>(group_size, copy);
  return cudaGetLastError();
}

int64_t word_size(const Lookup& args) {
  if (args.column_stride != 1) return args.element_size;
  const auto address =
      reinterpret_cast<uintptr_t>(args.rows) | reinterpret_cast<uintptr_t>(args.out);
  const int64_t bits = static_cast<int64_t>(address) | args.dim * args.element_size |
                       args.row_stride * args.element_size;
  int64_t size = kAccessBytes;
  while (bits % size != 0) size /= 2;
  return size;
}

}  // namespace

int launch_lookup(const Lookup& args, Stream stream) {
  if (args.indices.count == 0) return cudaSuccess;
  switch (word_size(args)) {
    case 16:
      return launch_copy<uint4>(args, stream);
    case 8:
      return launch_copy<uint2>(args, stream);
    case 4:
      return launch_copy<uint32_t>(args, stream);
    case 2:
      return launch_copy<uint16_t>(args, stream);
    default:
      return launch_copy<uint8_t>(args, stream);
  }
}

}  // namespace myemb::cuda
