#pragma once

// group-reduce-apply: a table's dense gradient from the gradient of the output.

#include <cpu/bags.h>
#include <cpu/group.h>

#include <ATen/core/Tensor.h>

namespace myemb {

// Where the gradient of lookup i comes from, in input order.
struct GradientSource {
  const at::Tensor& grad_output;  // (B, D)
  const int64_t* bags;            // (N) row of grad_output; null: row i
  at::Tensor weights;             // (N) accumulator type; undefined: 1
  const int64_t* positions;       // (B, D) of embedding_bag_max; null: every column counts
};

// (num_weights, D): for each row of groups the weighted sum of its lookups' gradients, divided by
// their number if average; zero elsewhere.
at::Tensor dense_gradient(const GradientSource& source, const RowGroups& groups,
                          int64_t num_weights, bool average);

}  // namespace myemb
