#include <cpu/tables.h>

#include <cpu/bags.h>
#include <cpu/large_blocks.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <ops/table_output.h>
#include <ops/types.h>
#include <ops/views.h>

#include <torch/library.h>

namespace myemb {
namespace {

// What a feature has to do.
SegmentWork work_of(const at::Tensor& weight, const TableLayout& layout, const TableBags& bags,
                    size_t f, TableOutput::Columns out, const at::Tensor& positions,
                    BadIndex* bad) {
  const BatchFeature& feature = layout.features[f];
  const BatchTable& table = layout.table_of(feature);
  const int64_t padding_idx = table.padding_idx.expect_int();
  if (table.mode != BagMode::Max) {
    return SegmentSum{
        .rows = rows_of(weight),
        .indices = bags.indices(f),
        .segments = bags.segments(f),
        .weights = bags.weights_data(),
        .padding_idx = padding_idx,
        .average = table.mode == BagMode::Mean,
        .out = out.data,
        .out_stride = out.stride,
        .bad = bad,
    };
  }
  int64_t* const first = positions.defined() ? positions.mutable_data_ptr<int64_t>() +
                                                   feature.positions_column.expect_int()
                                             : nullptr;
  return SegmentMax{
      .rows = rows_of(weight),
      .indices = bags.indices(f),
      .segments = bags.segments(f),
      .weights = bags.weights_data(),
      .padding_idx = padding_idx,
      .out = out.data,
      .out_stride = out.stride,
      .positions = first,
      .positions_stride = layout.positions_columns.expect_int(),
      .bad = bad,
  };
}

at::Tensor look_up(at::TensorList weights, const TableLayout& layout, const TableBags& bags,
                   const at::Tensor& positions) {
  const auto new_tensor = [](at::IntArrayRef shape, at::ScalarType type) {
    return empty_result(shape, at::TensorOptions().dtype(type));
  };
  TableOutput output(new_tensor({bags.num_bags, layout.columns.expect_int()}, layout.type),
                     new_tensor);
  BadIndex bad;
  std::vector<SegmentWork> works;
  works.reserve(layout.features.size());
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const BatchFeature& feature = layout.features[f];
    const auto out = output.columns(feature, layout.table_of(feature));
    works.push_back(work_of(weights[feature.table], layout, bags, f, out, positions, &bad));
  }
  run_segments(works);
  bags.check(bad, layout);
  return output.joined();
}

at::Tensor tables_cpu(at::TensorList weights, const at::Tensor& indices, const at::Tensor& offsets,
                      at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
                      const OptionalTensor& per_sample_weights,
                      at::OptionalSymIntArrayRef padding_idx, at::IntArrayRef sparse_tables) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const TableLookups lookups{indices, offsets, per_sample_weights};
  check_tables(weights, lookups, layout);
  check_sparse_tables(sparse_tables, layout);
  return look_up(weights, layout, TableBags(lookups, layout), at::Tensor());
}

std::tuple<at::Tensor, at::Tensor> tables_max_cpu(at::TensorList weights, const at::Tensor& indices,
                                                  const at::Tensor& offsets,
                                                  at::OptionalIntArrayRef feature_tables,
                                                  at::OptionalIntArrayRef modes,
                                                  const OptionalTensor& per_sample_weights,
                                                  at::OptionalSymIntArrayRef padding_idx) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const TableLookups lookups{indices, offsets, per_sample_weights};
  check_tables(weights, lookups, layout);
  const TableBags bags(lookups, layout);
  const at::Tensor positions = empty_result({bags.num_bags, layout.positions_columns.expect_int()},
                                            at::TensorOptions().dtype(at::kLong));
  const at::Tensor out = look_up(weights, layout, bags, positions);
  return {out, positions};
}

}  // namespace

TableBags::TableBags(const TableLookups& lookups, const TableLayout& layout)
    : num_bags(lookups.num_bags(layout).expect_int()),
      indices_(kernel_indices(lookups.indices)),
      offsets_(contiguous_as(at::kLong, lookups.offsets)),
      all_(indices_of(indices_)),
      starts_(offsets_.const_data_ptr<int64_t>()) {
  check_offsets(starts_, offsets_.numel(), all_.count, /*include_last_offset=*/true);
  if (lookups.per_sample_weights) {
    weights = contiguous_as(accumulator_type(layout.type), *lookups.per_sample_weights);
  }
}

Segments TableBags::segments(size_t feature) const {
  return {starts_ + feature * num_bags, num_bags + 1, 0, num_bags, first_lookup(feature + 1)};
}

Indices TableBags::indices(size_t feature) const {
  return {all_.data, all_.is_int64, first_lookup(feature + 1)};
}

void TableBags::check(const BadIndex& bad, const TableLayout& layout) const {
  const int64_t position = bad.position();
  if (position == BadIndex::kNone) return;
  size_t feature = 0;
  while (first_lookup(feature + 1) <= position) ++feature;
  const int64_t index =
      visit_indices(all_, [&](const auto* data) -> int64_t { return data[position]; });
  refuse_index(position, index, feature, layout);
}

TORCH_LIBRARY_IMPL(myemb, CPU, m) {
  m.impl("embedding_bag_tables", &tables_cpu);
  m.impl("embedding_bag_tables_max", &tables_max_cpu);
}

}  // namespace myemb
