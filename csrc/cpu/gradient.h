#pragma once

// group-reduce-apply: a table's dense gradient from the gradient of the output.

#include <cpu/group.h>
#include <cpu/kernels/kernels.h>
#include <cpu/large_blocks.h>

#include <ATen/core/Tensor.h>

namespace myemb {

// Where the gradient of lookup i comes from, in input order.
struct GradientSource {
  const at::Tensor& grad_output;       // (B, D) contiguous
  const int64_t* bags = nullptr;       // (N) row of grad_output, not falling; null: row i
  Segments segments = {};              // the bags
  at::Tensor weights = {};             // (N) accumulator type; undefined: 1
  const int64_t* positions = nullptr;  // (B, D) of embedding_bag_max; null: every column counts
};

// The lookups of a gradient by the row they touch, and what has to be summed up for each: `sums`
// without a place for the results. Throws what group_by_row does.
class GroupedGradient {
  const bool by_bag_;

 public:
  GroupedGradient(const GradientSource& source, const Indices& indices, int64_t num_weights,
                  int64_t padding_idx, bool average, const char* op);

  const RowGroups groups;
  SegmentSum sums;

 private:
  Scratch memory_;
  at::Tensor weights_;
  BadIndex bad_;
};

// (num_weights, D): for each row the weighted sum of its lookups' gradients, divided by their
// number if average; zero for a row without lookups and for that of padding_idx. Throws what
// group_by_row does.
at::Tensor dense_gradient(const GradientSource& source, const Indices& indices, int64_t num_weights,
                          int64_t padding_idx, bool average, const char* op);

}  // namespace myemb
