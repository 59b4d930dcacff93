#include <cpu/gradient.h>

#include <cpu/large_blocks.h>
#include <cpu/max_gradient.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>

#include <ATen/ops/empty.h>

namespace myemb {
namespace {

at::Tensor weights_in_group_order(const RowGroups& groups, const at::Tensor& weights) {
  const at::Tensor grouped = at::empty({groups.lookups}, weights.options());
  if (weights.scalar_type() == at::kDouble) {
    in_group_order(groups, weights.const_data_ptr<double>(), grouped.mutable_data_ptr<double>());
  } else {
    in_group_order(groups, weights.const_data_ptr<float>(), grouped.mutable_data_ptr<float>());
  }
  return grouped;
}

}  // namespace

GroupedGradient::GroupedGradient(const GradientSource& source, const Indices& indices,
                                 int64_t num_weights, int64_t padding_idx, bool average,
                                 const char* op)
    // Where nothing but its bag is wanted of a lookup, the sort carries that.
    : by_bag_(source.bags && !source.weights.defined() && !source.positions),
      groups(group_by_row({indices, num_weights, padding_idx, by_bag_ ? source.bags : nullptr,
                           source.grad_output.size(0)},
                          op)),
      memory_(Scratch::bytes_for<int64_t>(groups.lookups)) {
  const int64_t* rows = groups.sources;
  if (source.bags && !by_bag_) {
    auto* const bags = memory_.take<int64_t>(groups.lookups);
    in_group_order(groups, source.bags, bags);
    rows = bags;
  }
  if (source.weights.defined()) weights_ = weights_in_group_order(groups, source.weights);
  sums = {
      .rows = rows_of(source.grad_output),
      .indices = {rows, /*is_int64=*/true, groups.lookups},
      .segments = groups.segments(),
      .weights = weights_.defined() ? weights_.const_data_ptr() : nullptr,
      .average = average,
      .positions = source.positions,
      .lookups = groups.sources,
      .out_rows = groups.rows,
      .out = nullptr,
      .bad = &bad_,
  };
}

at::Tensor dense_gradient(const GradientSource& source, const Indices& indices, int64_t num_weights,
                          int64_t padding_idx, bool average, const char* op) {
  const at::Tensor& grad = source.grad_output;
  GroupedGradient grouped(source, indices, num_weights, padding_idx, average, op);
  const auto [gradient, is_zero] = maybe_zeros_result({num_weights, grad.size(1)}, grad.options());
  SegmentSum& sums = grouped.sums;
  sums.zeroed_rows = is_zero ? 0 : num_weights;
  sums.out = gradient.mutable_data_ptr();
  if (source.positions && !average && grad.size(1) > 0) {
    const MaxScatter bags{
        .grad = sums.rows,
        .segments = source.segments,
        .positions = source.positions,
        .sum_rows = nullptr,
        .weights = source.weights.defined() ? source.weights.const_data_ptr() : nullptr,
        .sums = nullptr,
    };
    sum_maxima({bags}, source.segments.total, grouped.groups, sums);
  } else {
    run_segment_sum(sums);
  }
  return gradient;
}

}  // namespace myemb
