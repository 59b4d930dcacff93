#include <cpu/gradient.h>

#include <cpu/group.h>
#include <cpu/large_blocks.h>
#include <cpu/max_gradient.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>

#include <ATen/ops/empty.h>

namespace myemb {
namespace {

// from[groups.sources[i]] for each lookup i, in the order of the groups.
template <typename V>
void in_group_order(const RowGroups& groups, const V* from, V* to) {
  parallel_ranges(groups.lookups, groups.lookups, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = from[groups.sources[i]];
  });
}

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

at::Tensor dense_gradient(const GradientSource& source, const Indices& indices, int64_t num_weights,
                          int64_t padding_idx, bool average, const char* op) {
  const at::Tensor& grad = source.grad_output;
  // Where nothing but its bag is wanted of a lookup, the sort carries that.
  const bool by_bag = source.bags && !source.weights.defined() && !source.positions;
  const RowGroups groups = group_by_row(
      {indices, num_weights, padding_idx, by_bag ? source.bags : nullptr, grad.size(0)}, op);
  Scratch memory(Scratch::bytes_for<int64_t>(groups.lookups));
  const int64_t* rows = groups.sources;
  if (source.bags && !by_bag) {
    auto* const bags = memory.take<int64_t>(groups.lookups);
    in_group_order(groups, source.bags, bags);
    rows = bags;
  }
  const at::Tensor weights =
      source.weights.defined() ? weights_in_group_order(groups, source.weights) : at::Tensor();
  const auto [gradient, is_zero] = maybe_zeros_result({num_weights, grad.size(1)}, grad.options());
  BadIndex bad;
  const SegmentSum sums{
      .rows = rows_of(grad),
      .indices = {rows, /*is_int64=*/true, groups.lookups},
      .segments = groups.segments(),
      .weights = weights.defined() ? weights.const_data_ptr() : nullptr,
      .average = average,
      .positions = source.positions,
      .lookups = groups.sources,
      .out_rows = groups.rows,
      .zeroed_rows = is_zero ? 0 : num_weights,
      .out = gradient.mutable_data_ptr(),
      .bad = &bad,
  };
  if (source.positions && !average && grad.size(1) > 0) {
    sum_maxima(source, groups, sums);
  } else {
    run_segment_sum(sums);
  }
  return gradient;
}

}  // namespace myemb
