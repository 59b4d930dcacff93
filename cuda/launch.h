#pragma once

// The seam between tensors and device code: plain pointers and sizes, no ATen on one side and no
// CUDA headers on the other, so that a .cu file compiles in seconds.

#include <cstdint>

struct CUstream_st;

namespace myemb::cuda {

using Stream = CUstream_st*;

// out[i] = rows[indices[i]] for rows of row_bytes bytes that start row_stride_bytes apart. An index
// outside [0, num_rows) stops the kernel with a device-side assertion. Returns a cudaError_t.
struct Lookup {
  const void* rows;
  int64_t num_rows;
  int64_t row_bytes;
  int64_t row_stride_bytes;
  const void* indices;
  bool indices_are_int64;
  int64_t num_lookups;
  void* out;
};

int launch_lookup(const Lookup& args, Stream stream);

}  // namespace myemb::cuda
