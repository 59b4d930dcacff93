#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

namespace myemb {

// The sparse gradient of a table: an uncoalesced COO tensor (num_weights, D) with values (N, D) at
// rows lookups (N), int64, less the lookups of padding_idx (negative: none). As PyTorch's, and
// differentiable in values.
at::Tensor sparse_rows(const at::Tensor& lookups, const at::Tensor& values,
                       const c10::SymInt& num_weights, const c10::SymInt& padding_idx);

// 1 / count of each lookup's row, (N, 1) in the accumulator type of `type`: scale_grad_by_freq as
// weights.
at::Tensor inverse_frequency(const at::Tensor& lookups, const c10::SymInt& num_weights,
                             at::ScalarType type);

}  // namespace myemb
