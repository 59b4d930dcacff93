#pragma once

// From tensors to what kernels take; the same on every device.

#include <ops/checks.h>
#include <ops/types.h>
#include <policies/views.h>

#include <ATen/core/Tensor.h>

namespace myemb {

// fp64, fp32, fp16 or bf16; c10::NotImplementedError for any other.
Dtype dtype_of(const at::Tensor& tensor);

// A (rows, columns) tensor with any strides.
Rows rows_of(const at::Tensor& matrix);

// What kernel_indices (ops/types.h) returned, flattened.
Indices indices_of(const at::Tensor& kernel_indices);

// The lookups of an embedding_bag call in the form that kernels take. The values of offsets are not
// looked at.
class BagViews {
 public:
  // Throws unless padding_idx is within [-num_weights, num_weights), num_weights is not negative
  // and offsets are not empty if there are lookups. `values` is the dtype of the rows.
  BagViews(const BagArguments& arguments, std::optional<int64_t> padding_idx, int64_t num_weights,
           at::ScalarType values);

  Indices indices;
  Segments segments;
  int64_t padding_idx;  // -1: none
  at::Tensor weights;   // per_sample_weights in the accumulator type, flat; undefined for none

  const void* weights_data() const {
    return weights.defined() ? weights.const_data_ptr() : nullptr;
  }

 private:
  at::Tensor indices_;
  at::Tensor offsets_;
};

}  // namespace myemb
