#pragma once

// From tensors to what kernels take, and from what they noticed to exceptions.

#include <cpu/kernels/kernels.h>

#include <ATen/core/Tensor.h>
#include <ops/types.h>

namespace myemb {

// fp64, fp32, fp16 or bf16; the ops have checked that it is one of them.
Dtype dtype_of(const at::Tensor& tensor);

// A (rows, columns) tensor with any strides.
Rows rows_of(const at::Tensor& matrix);

// What kernel_indices (ops/types.h) returned, flattened.
Indices indices_of(const at::Tensor& kernel_indices);

template <typename F>
decltype(auto) visit_indices(const Indices& indices, F&& f) {
  if (indices.is_int64) return f(static_cast<const int64_t*>(indices.data));
  return f(static_cast<const int32_t*>(indices.data));
}

// Throws if a kernel noted an index outside [0, num_rows), in the words PyTorch has for `op`.
void check_lookups(const BadIndex& bad, const Indices& indices, int64_t num_rows, const char* op);

}  // namespace myemb
