// The lookup itself: rows are copied as bytes, whatever their dtype.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/row_access.h>
#include <cpu/kernels/simd.h>

namespace myemb::MYEMB_ISA {
namespace {

inline constexpr int64_t kPrefetchBytes = 4096;

template <int kBytes>
MYEMB_INLINE void copy_bytes(char* to, const char* from) {
  typedef char Block __attribute__((vector_size(kBytes)));
  Block block;
  std::memcpy(&block, from, kBytes);
  std::memcpy(to, &block, kBytes);
}

// Copies `bytes` >= kBytes in blocks, the last one reaching back over bytes already copied.
template <int kBytes>
MYEMB_INLINE void copy_blocks(char* to, const char* from, int64_t bytes) {
  int64_t at = 0;
  for (; at + kBytes <= bytes; at += kBytes) copy_bytes<kBytes>(to + at, from + at);
  if (at < bytes) copy_bytes<kBytes>(to + bytes - kBytes, from + bytes - kBytes);
}

MYEMB_INLINE void copy_row(char* to, const char* from, int64_t bytes) {
  if (bytes >= kVectorBytes) return copy_blocks<kVectorBytes>(to, from, bytes);
  if (bytes >= 16) return copy_blocks<16>(to, from, bytes);
  if (bytes >= 4) return copy_blocks<4>(to, from, bytes);
  for (int64_t b = 0; b < bytes; ++b) to[b] = from[b];
}

template <typename Index>
void copy_rows(const Lookup& args, const Index* indices, int64_t begin, int64_t end) {
  const int64_t bytes = args.dim * args.element_size;
  const int64_t stride = args.row_stride * args.element_size;
  const int64_t prefetched = bytes < kPrefetchBytes ? bytes : kPrefetchBytes;
  const int64_t ahead = kPrefetchBytes / (bytes + 1) + 1;
  for (int64_t i = begin; i < end; ++i) {
    if (i + ahead < end) prefetch_row(args.table, indices[i + ahead], stride, prefetched);
    const int64_t index = indices[i];
    if (!is_row(index, args.num_rows)) {
      args.bad->note(i);
    } else {
      copy_row(args.out + i * bytes, args.table + index * stride, bytes);
    }
  }
}

// A table whose columns are not next to each other: element by element.
template <typename Index>
void copy_strided_rows(const Lookup& args, const Index* indices, int64_t begin, int64_t end) {
  const int64_t size = args.element_size;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t index = indices[i];
    if (!is_row(index, args.num_rows)) {
      args.bad->note(i);
      continue;
    }
    const char* from = args.table + index * args.row_stride * size;
    char* to = args.out + i * args.dim * size;
    for (int64_t d = 0; d < args.dim; ++d) {
      std::memcpy(to + d * size, from + d * args.column_stride * size, size);
    }
  }
}

}  // namespace

void lookup(const Lookup& args, int64_t begin, int64_t end) {
  const auto copy = [&]<typename Index>(const Index* indices) {
    if (args.column_stride == 1) {
      copy_rows(args, indices, begin, end);
    } else {
      copy_strided_rows(args, indices, begin, end);
    }
  };
  if (args.indices.is_int64) {
    copy(static_cast<const int64_t*>(args.indices.data));
  } else {
    copy(static_cast<const int32_t*>(args.indices.data));
  }
}

}  // namespace myemb::MYEMB_ISA
