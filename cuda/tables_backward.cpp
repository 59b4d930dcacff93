#include <cuda/grouped_tables.h>
#include <cuda/ops.h>
#include <ops/types.h>
#include <ops/views.h>

#include <algorithm>
#include <utility>

namespace myemb::cuda {
namespace {

// The dense gradients of tables, (V, D) each.
std::vector<at::Tensor> dense_gradients(const at::Tensor& grad_output,
                                        const OptionalTensor& positions,
                                        const TableLookups& lookups, const TableLayout& layout,
                                        at::IntArrayRef tables) {
  const DeviceCall call(grad_output, "embedding_bag_tables_backward");
  std::vector<at::Tensor> gradients;
  for (const int64_t t : tables) {
    const BatchTable& table = layout.tables[t];
    gradients.push_back(call.output({table.num_weights.expect_int(), table.dim.expect_int()},
                                    grad_output.options().dtype(table.type)));
    call.check(
        launch_zero(gradients.back().mutable_data_ptr(), gradients.back().nbytes(), call.stream()));
  }
  const CudaTableBags bags(call, lookups, layout);
  TableGrads grads(grad_output, positions, layout);
  GroupedTables grouped(call, layout, bags, grads, tables, Op::EmbeddingBagTablesBackward);
  for (GroupedTables::Group& group : grouped.groups) {
    for (size_t i = 0; i < group.places.size(); ++i) {
      group.tables[i].out = gradients[group.places[i]].mutable_data_ptr();
    }
    const at::Tensor partials = grouped.partials(group);
    group.sum.partials = partials.mutable_data_ptr();
    call.check(launch_tables_gradient_sum(group.sums(), call.stream()));
  }
  return gradients;
}

std::vector<at::Tensor> backward(const at::Tensor& grad_output, const at::Tensor& indices,
                                 const at::Tensor& offsets, const OptionalTensor& positions,
                                 at::SymIntArrayRef num_weights, at::SymIntArrayRef embedding_dims,
                                 at::IntArrayRef dtypes, at::OptionalIntArrayRef feature_tables,
                                 at::OptionalIntArrayRef modes,
                                 const OptionalTensor& per_sample_weights,
                                 at::OptionalSymIntArrayRef padding_idx,
                                 at::IntArrayRef sparse_tables, at::IntArrayRef wanted_tables) {
  const TableLayout layout({num_weights, embedding_dims, dtypes},
                           {feature_tables, modes, padding_idx});
  const TableLookups lookups{indices, offsets, per_sample_weights};
  check_tables_gradient(grad_output, positions, lookups, layout);
  check_sparse_tables(sparse_tables, layout);
  check_table_list(wanted_tables, layout, "wanted_tables");
  std::vector<int64_t> dense, sparse;
  for (const int64_t t : wanted_tables) {
    auto& list = layout.is_sparse(t, sparse_tables) ? sparse : dense;
    if (std::find(list.begin(), list.end(), t) == list.end()) list.push_back(t);
  }
  std::vector<at::Tensor> of_sparse, of_dense;
  if (!sparse.empty()) {
    // How many values a sparse gradient has is a matter of offsets, which have to be waited for.
    of_sparse =
        decompose_tables_backward(grad_output, positions, lookups, layout, sparse_tables, sparse);
  }
  if (!dense.empty()) of_dense = dense_gradients(grad_output, positions, lookups, layout, dense);
  std::vector<at::Tensor> found;
  for (size_t i = 0; i < wanted_tables.size(); ++i) {
    const int64_t t = wanted_tables[i];
    const bool is_sparse = layout.is_sparse(t, sparse_tables);
    const auto& list = is_sparse ? sparse : dense;
    const at::Tensor& gradient =
        (is_sparse ? of_sparse : of_dense)[std::find(list.begin(), list.end(), t) - list.begin()];
    const bool is_again =
        std::find(wanted_tables.begin(), wanted_tables.begin() + i, t) != wanted_tables.begin() + i;
    found.push_back(is_again ? gradient.clone() : gradient);
  }
  return found;
}

// The shares of the bags of a group of features in mode mean, undefined in another.
at::Tensor shares_of(const DeviceCall& call, const FeatureGroups::Features& features,
                     const CudaTableBags& bags, const std::vector<GroupedFeature>& starts) {
  if (features.table->mode != BagMode::Mean) return {};
  return mean_divisors(call, bags, starts, features.rows.dtype, /*inverse=*/true, nullptr);
}

at::Tensor per_sample_weights_backward(const at::Tensor& grad_output, at::TensorList weights,
                                       const at::Tensor& indices, const at::Tensor& offsets,
                                       const OptionalTensor& positions,
                                       at::OptionalIntArrayRef feature_tables,
                                       at::OptionalIntArrayRef modes,
                                       at::OptionalSymIntArrayRef padding_idx) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const OptionalTensor none;
  const TableLookups lookups{indices, offsets, none};
  check_tables_weights_gradient(grad_output, weights, positions, lookups, layout);
  const DeviceCall call(grad_output, "embedding_bag_tables_per_sample_weights_backward");
  const CudaTableBags bags(call, lookups, layout);
  TableGrads grads(grad_output, positions, layout);
  const at::Tensor out =
      call.output({bags.num_lookups()}, grad_output.options().dtype(accumulator_type(layout.type)));
  const FeatureGroups groups(call, weights, layout);
  for (const FeatureGroups::Features& features : groups.groups) {
    const GradientPlaces places(layout, features.numbers, grads.row_stride());
    std::vector<GroupedFeature> starts;
    for (size_t i = 0; i < features.numbers.size(); ++i) {
      const BatchFeature& feature = layout.features[features.numbers[i]];
      starts.push_back({.rows = features.tables[i],
                        .first_row = -1,
                        .payload = Payload::Start,
                        .average = false,
                        .start = places.starts[i],
                        .step = places.step,
                        .position_start = feature.positions_column.expect_int()});
    }
    Rows left = grads.numbers(*features.table);
    left.row_stride = places.unit;
    const at::Tensor shares = shares_of(call, features, bags, starts);
    const bool is_max = features.table->mode == BagMode::Max;
    call.check(launch_feature_dots({.group = features.group(bags),
                                    .starts = starts,
                                    .left = left,
                                    .shares = shares.defined() ? shares.const_data_ptr() : nullptr,
                                    .positions = is_max ? grads.positions() : nullptr,
                                    .position_step = grads.positions_stride(),
                                    .out = out.mutable_data_ptr()},
                                   call.stream()));
  }
  return out;
}

}  // namespace

void register_tables_backward(torch::Library& m) {
  m.impl("embedding_bag_tables_backward", &backward);
  m.impl("embedding_bag_tables_per_sample_weights_backward", &per_sample_weights_backward);
}

}  // namespace myemb::cuda
