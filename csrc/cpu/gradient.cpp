#include <cpu/gradient.h>

#include <cpu/large_blocks.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>

#include <ATen/ops/empty.h>

namespace myemb {
namespace {

// The sources of the lookups in the order of the groups.
std::unique_ptr<int64_t[]> grouped_bags(const GradientSource& source, const RowGroups& groups) {
  if (!source.bags) return nullptr;
  auto bags = std::make_unique_for_overwrite<int64_t[]>(groups.lookups);
  parallel_ranges(groups.lookups, groups.lookups, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) bags[i] = source.bags[groups.positions[i]];
  });
  return bags;
}

at::Tensor grouped_weights(const GradientSource& source, const RowGroups& groups) {
  if (!source.weights.defined()) return {};
  const at::Tensor grouped = at::empty({groups.lookups}, source.weights.options());
  const auto permute = [&]<typename A>(const A* from, A* to) {
    parallel_ranges(groups.lookups, groups.lookups, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] = from[groups.positions[i]];
    });
  };
  if (grouped.scalar_type() == at::kDouble) {
    permute(source.weights.const_data_ptr<double>(), grouped.mutable_data_ptr<double>());
  } else {
    permute(source.weights.const_data_ptr<float>(), grouped.mutable_data_ptr<float>());
  }
  return grouped;
}

}  // namespace

at::Tensor dense_gradient(const GradientSource& source, const RowGroups& groups,
                          int64_t num_weights, bool average) {
  const at::Tensor& grad = source.grad_output;
  const at::Tensor gradient = zeros_result({num_weights, grad.size(1)}, grad.options());
  const auto bags = grouped_bags(source, groups);
  const at::Tensor weights = grouped_weights(source, groups);
  BadIndex bad;
  run_segment_sum({
      .rows = rows_of(grad),
      .indices = {bags ? bags.get() : groups.positions.get(), /*is_int64=*/true, groups.lookups},
      .segments = groups.segments(),
      .weights = weights.defined() ? weights.const_data_ptr() : nullptr,
      .padding_idx = -1,
      .average = average,
      .positions = source.positions,
      .lookups = groups.positions.get(),
      .out_rows = groups.rows.get(),
      .out = gradient.mutable_data_ptr(),
      .bad = &bad,
  });
  return gradient;
}

}  // namespace myemb
