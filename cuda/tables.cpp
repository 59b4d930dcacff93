#include <cuda/tables.h>

#include <cuda/ops.h>
#include <ops/table_output.h>
#include <ops/views.h>

#include <ATen/ops/empty.h>

#include <algorithm>

namespace myemb::cuda {
namespace {

// Whether kernels write all of the output, and no columns are copied from elsewhere.
bool is_of_one_type(const TableLayout& layout) {
  return std::all_of(layout.features.begin(), layout.features.end(), [&](const auto& feature) {
    return layout.table_of(feature).type == layout.type;
  });
}

// Where the rows of a group's features go; all of them are as far apart.
struct FeatureRows {
  std::vector<void*> rows;
  int64_t stride = 0;
};

FeatureRows rows_of_features(TableOutput& output, const TableLayout& layout,
                             const FeatureGroups::Features& features) {
  FeatureRows out;
  for (const int64_t f : features.numbers) {
    const auto columns = output.columns(layout.features[f], *features.table);
    out.rows.push_back(columns.data);
    out.stride = columns.stride;
  }
  return out;
}

std::vector<int64_t*> position_rows(const TableLayout& layout, const std::vector<int64_t>& features,
                                    const at::Tensor& positions) {
  std::vector<int64_t*> rows;
  if (!positions.defined()) return rows;
  for (const int64_t f : features) {
    rows.push_back(positions.mutable_data_ptr<int64_t>() +
                   layout.features[f].positions_column.expect_int());
  }
  return rows;
}

at::Tensor look_up(const DeviceCall& call, at::TensorList weights, const TableLookups& lookups,
                   const TableLayout& layout, const CudaTableBags& bags,
                   const at::Tensor& positions) {
  const at::TensorOptions options = lookups.indices.options();
  const std::vector<int64_t> shape{bags.num_bags(), layout.columns.expect_int()};
  TableOutput output(is_of_one_type(layout) ? call.output(shape, options.dtype(layout.type))
                                            : at::empty(shape, options.dtype(layout.type)),
                     [&](at::IntArrayRef part, at::ScalarType type) {
                       return call.output(part, options.dtype(type));
                     });
  const FeatureGroups groups(call, weights, layout);
  for (const FeatureGroups::Features& features : groups.groups) {
    const auto& [data, dtype, count, dim, row_stride, column_stride] = features.rows;
    const FeatureGroup group = features.group(bags);
    if (dim == 0) {
      call.check(launch_feature_check(bags.lookups, features.tables, call.stream()));
      continue;
    }
    const FeatureRows out = rows_of_features(output, layout, features);
    const bool is_max = features.table->mode == BagMode::Max;
    const size_t bytes = is_max ? max_partials_bytes(bags.num_lookups(), dim, dtype)
                                : sum_partials_bytes(bags.num_lookups(), dim, dtype);
    const at::Tensor partials = call.scratch(static_cast<int64_t>(bytes));
    if (is_max) {
      const auto first_positions = position_rows(layout, features.numbers, positions);
      call.check(launch_feature_maxima({.group = group,
                                        .out = out.rows,
                                        .out_stride = out.stride,
                                        .positions = first_positions,
                                        .positions_stride = layout.positions_columns.expect_int(),
                                        .partials = partials.mutable_data_ptr()},
                                       call.stream()));
    } else {
      call.check(launch_feature_sums({.group = group,
                                      .average = features.table->mode == BagMode::Mean,
                                      .out = out.rows,
                                      .out_stride = out.stride,
                                      .partials = partials.mutable_data_ptr()},
                                     call.stream()));
    }
  }
  return output.joined();
}

at::Tensor tables(at::TensorList weights, const at::Tensor& indices, const at::Tensor& offsets,
                  at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
                  const OptionalTensor& per_sample_weights, at::OptionalSymIntArrayRef padding_idx,
                  at::IntArrayRef sparse_tables) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const TableLookups lookups{indices, offsets, per_sample_weights};
  check_tables(weights, lookups, layout);
  check_sparse_tables(sparse_tables, layout);
  const DeviceCall call(indices, "embedding_bag_tables");
  const CudaTableBags bags(call, lookups, layout);
  return look_up(call, weights, lookups, layout, bags, at::Tensor());
}

std::tuple<at::Tensor, at::Tensor> tables_max(at::TensorList weights, const at::Tensor& indices,
                                              const at::Tensor& offsets,
                                              at::OptionalIntArrayRef feature_tables,
                                              at::OptionalIntArrayRef modes,
                                              const OptionalTensor& per_sample_weights,
                                              at::OptionalSymIntArrayRef padding_idx) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const TableLookups lookups{indices, offsets, per_sample_weights};
  check_tables(weights, lookups, layout);
  const DeviceCall call(indices, "embedding_bag_tables_max");
  const CudaTableBags bags(call, lookups, layout);
  const at::Tensor positions = call.output({bags.num_bags(), layout.positions_columns.expect_int()},
                                           indices.options().dtype(at::kLong));
  const at::Tensor out = look_up(call, weights, lookups, layout, bags, positions);
  return {out, positions};
}

}  // namespace

CudaTableBags::CudaTableBags(const DeviceCall& call, const TableLookups& arguments,
                             const TableLayout& layout)
    : indices_(kernel_indices(arguments.indices)),
      offsets_(contiguous_as(at::kLong, arguments.offsets)) {
  if (arguments.per_sample_weights) {
    weights_ = contiguous_as(accumulator_type(layout.type), *arguments.per_sample_weights);
  }
  lookups = {indices_of(indices_), offsets_.const_data_ptr<int64_t>(),
             arguments.num_bags(layout).expect_int(),
             weights_.defined() ? weights_.const_data_ptr() : nullptr};
  call.check(launch_offsets_check({.offsets = lookups.offsets,
                                   .batches = 1,
                                   .count = offsets_.numel(),
                                   .num_lookups = num_lookups(),
                                   .include_last_offset = true},
                                  call.stream()));
}

FeatureGroups::FeatureGroups(const DeviceCall& call, at::TensorList weights,
                             const TableLayout& layout) {
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const BatchTable& table = layout.table_of(layout.features[f]);
    const Rows rows = myemb::rows_of(weights[layout.features[f].table]);
    auto found = std::find_if(groups.begin(), groups.end(), [&](const Features& group) {
      return group.rows.dtype == rows.dtype && group.rows.dim == rows.dim &&
             group.rows.column_stride == rows.column_stride && group.table->mode == table.mode;
    });
    if (found == groups.end()) {
      groups.push_back({&table, rows, {}, {}});
      found = groups.end() - 1;
    }
    const bool is_empty = rows.count == 0 && rows.dim > 0;
    found->numbers.push_back(static_cast<int64_t>(f));
    found->tables.push_back({static_cast<int64_t>(f), rows.count, table.padding_idx.expect_int(),
                             is_empty ? readable_row(call, rows) : rows.data,
                             is_empty ? 0 : rows.row_stride});
  }
}

const void* FeatureGroups::readable_row(const DeviceCall& call, const Rows& rows) {
  const int64_t bytes = ((rows.dim - 1) * rows.column_stride + 1) * size_of(rows.dtype);
  at::Tensor row = call.scratch(bytes);
  call.check(launch_zero(row.mutable_data_ptr(), bytes, call.stream()));
  readable_.push_back(row);
  return row.const_data_ptr();
}

void register_tables(torch::Library& m) {
  m.impl("embedding_bag_tables", &tables);
  m.impl("embedding_bag_tables_max", &tables_max);
}

}  // namespace myemb::cuda
