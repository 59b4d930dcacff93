#pragma once

// What every backend makes of the dtypes and modes of a call.

#include <ATen/core/Tensor.h>
#include <myemb/ops.h>

namespace myemb {

inline bool is_mode(int64_t mode, BagMode which) { return mode == static_cast<int64_t>(which); }

inline bool is_16_bit(at::ScalarType type) { return type == at::kHalf || type == at::kBFloat16; }

inline bool is_16_bit(const at::Tensor& values) { return is_16_bit(values.scalar_type()); }

// The type that reductions over such values accumulate in: fp64 for double, otherwise fp32.
inline at::ScalarType accumulator_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// Asks for the type first: `to` goes through the dispatcher even where it has nothing to do.
inline at::Tensor contiguous_as(at::ScalarType type, const at::Tensor& tensor) {
  return (tensor.scalar_type() == type ? tensor : tensor.to(type)).contiguous();
}

// Lookups as kernels take them, contiguous int32 or int64; other integers become int64.
inline at::Tensor kernel_indices(const at::Tensor& indices) {
  return contiguous_as(indices.scalar_type() == at::kInt ? at::kInt : at::kLong, indices);
}

}  // namespace myemb
