#pragma once

// What every kernel does with an index before it reads a row.

#include <policies/types.h>

#include <cstdint>

namespace myemb::MYEMB_ISA {

MYEMB_INLINE bool is_row(int64_t index, int64_t num_rows) {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(num_rows);
}

// Asks for `bytes` bytes from base + index * stride_bytes on. The index is not checked yet, so the
// address is integer arithmetic; prefetching a wrong one is harmless.
MYEMB_INLINE void prefetch_row(const void* base, int64_t index, int64_t stride_bytes,
                               int64_t bytes) {
  const uintptr_t row = reinterpret_cast<uintptr_t>(base) +
                        static_cast<uintptr_t>(index) * static_cast<uintptr_t>(stride_bytes);
  for (int64_t at = 0; at < bytes; at += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(row + at));
  }
}

}  // namespace myemb::MYEMB_ISA
