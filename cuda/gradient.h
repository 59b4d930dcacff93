#pragma once

// group by row and group-reduce-apply, from tensors.

#include <cuda/device.h>

namespace myemb::cuda {

// The lookups sorted by row, in memory of their own.
struct RowGroups {
  at::Tensor memory;
  Groups groups;
};

// bags: see GroupByRow.
RowGroups group_by_row(const DeviceCall& call, const Indices& indices, int64_t num_rows,
                       int64_t padding_idx, Op op, const Segments* bags = nullptr);

// Memory for the partial rows of `sum`.
at::Tensor partials_of(const DeviceCall& call, const GradientSum& sum);

// (num_weights, D): what `sum` says, zero in rows without lookups. Fills in where the result and
// the partial sums go.
at::Tensor dense_gradient(const DeviceCall& call, GradientSum sum,
                          const at::TensorOptions& options);

}  // namespace myemb::cuda
