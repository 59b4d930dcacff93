#pragma once

// From what kernels noticed to exceptions.

#include <cpu/kernels/kernels.h>

#include <ops/views.h>

namespace myemb {

template <typename F>
decltype(auto) visit_indices(const Indices& indices, F&& f) {
  if (indices.is_int64) return f(static_cast<const int64_t*>(indices.data));
  return f(static_cast<const int32_t*>(indices.data));
}

// Throws if a kernel noted an index outside [0, num_rows), in the words PyTorch has for `op`.
void check_lookups(const BadIndex& bad, const Indices& indices, int64_t num_rows, const char* op);

}  // namespace myemb
