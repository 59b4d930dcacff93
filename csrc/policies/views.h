#pragma once

// What kernels of both devices take: views of memory that somebody else owns, without torch.

#include <policies/types.h>

#include <cstdint>

namespace myemb {

// int32 or int64 indices, as the caller has them.
struct Indices {
  const void* data;
  bool is_int64;
  int64_t count;
};

// A matrix of rows to read: the table, or the gradient of the output. Strides are in elements.
struct Rows {
  const void* data;
  Dtype dtype;
  int64_t count;
  int64_t dim;
  int64_t row_stride;
  int64_t column_stride;
};

// Segment s holds the lookups [begin(s), end(s)) of `total`.
struct Segments {
  const int64_t* starts;  // null: every segment has `length` lookups
  int64_t starts_count;   // count, or count + 1
  int64_t length;
  int64_t count;
  int64_t total;
  MYEMB_INLINE int64_t begin(int64_t s) const { return starts ? starts[s] : s * length; }
  MYEMB_INLINE int64_t end(int64_t s) const {
    if (!starts) return (s + 1) * length;
    return s + 1 < starts_count ? starts[s + 1] : total;
  }
};

}  // namespace myemb
