// The arguments of embedding_bag_tables: what they mean, and the checks that every backend makes.

#include <ops/tables_update.h>

#include <ops/checks.h>
#include <ops/types.h>

#include <c10/util/Exception.h>

#include <algorithm>

namespace myemb {
namespace {

constexpr auto kOp = "embedding_bag_tables";

BagMode mode_of(int64_t mode) {
  TORCH_CHECK_VALUE(mode >= 0 && mode <= 2, kOp,
                    ": a mode has to be one of sum, mean or max, that is 0, 1 or 2, but got ",
                    mode);
  return static_cast<BagMode>(mode);
}

void check_count(const char* name, size_t count, size_t tables) {
  TORCH_CHECK_VALUE(count == tables, kOp, ": ", name, " has to have one number for each of the ",
                    tables, " tables, but has ", count);
}

void check_is_table(int64_t table, const TableLayout& layout, const char* name, size_t place) {
  const int64_t tables = static_cast<int64_t>(layout.tables.size());
  TORCH_CHECK_VALUE(table >= 0 && table < tables, kOp, ": ", name, "[", place, "] is ", table,
                    ", which is not a table in [0, ", tables, ")");
}

void check_weights_dtype(const at::Tensor& weights, const BatchTable& table, size_t feature) {
  const at::ScalarType type = weights.scalar_type();
  TORCH_CHECK(type == table.type || (is_16_bit(table.type) && type == at::kFloat), kOp,
              ": per_sample_weights are ", c10::toString(type), ", but feature ", feature,
              " reads a table of ", c10::toString(table.type));
}

}  // namespace

TableLayout::TableLayout(at::TensorList weights, const TableOptions& options) {
  tables.reserve(weights.size());
  for (size_t t = 0; t < weights.size(); ++t) {
    const at::Tensor& weight = weights[t];
    TORCH_CHECK_VALUE(weight.dim() == 2, kOp, ": weights[", t,
                      "] has to be a 2D Tensor, but got Tensor of dimension ", weight.dim());
    check_floating(weight, "weights", kOp);
    tables.push_back(
        {weight.sym_size(0), weight.sym_size(1), weight.scalar_type(), BagMode::Sum, -1});
  }
  set_options(options);
}

TableLayout::TableLayout(const TableShapes& shapes, const TableOptions& options) {
  const size_t count = shapes.num_weights.size();
  check_count("embedding_dims", shapes.embedding_dims.size(), count);
  check_count("dtypes", shapes.dtypes.size(), count);
  tables.reserve(count);
  for (size_t t = 0; t < count; ++t) {
    TORCH_CHECK(shapes.num_weights[t] >= 0 && shapes.embedding_dims[t] >= 0, kOp, ": table ", t,
                " has ", shapes.num_weights[t], " rows of ", shapes.embedding_dims[t], " columns");
    const auto table_type = static_cast<at::ScalarType>(shapes.dtypes[t]);
    TORCH_CHECK(table_type == at::kDouble || table_type == at::kFloat || is_16_bit(table_type), kOp,
                ": dtypes[", t, "] is ", shapes.dtypes[t],
                ", which is not the at::ScalarType of a table");
    tables.push_back(
        {shapes.num_weights[t], shapes.embedding_dims[t], table_type, BagMode::Sum, -1});
  }
  set_options(options);
}

void TableLayout::set_options(const TableOptions& options) {
  const size_t count = tables.size();
  if (options.modes) check_count("modes", options.modes->size(), count);
  if (options.padding_idx) check_count("padding_idx", options.padding_idx->size(), count);
  for (size_t t = 0; t < count; ++t) {
    BatchTable& table = tables[t];
    if (options.modes) table.mode = mode_of((*options.modes)[t]);
    if (!options.padding_idx) continue;
    table.padding_idx = (*options.padding_idx)[t];
    TORCH_CHECK(table.padding_idx < table.num_weights, kOp, ": padding_idx[", t, "] is ",
                table.padding_idx, ", but table ", t, " has ", table.num_weights, " rows");
  }
  const size_t num_features = options.feature_tables ? options.feature_tables->size() : count;
  TORCH_CHECK_VALUE(num_features > 0, kOp, ": there has to be a feature that reads a table");
  features.reserve(num_features);
  for (size_t f = 0; f < num_features; ++f) {
    const int64_t table =
        options.feature_tables ? (*options.feature_tables)[f] : static_cast<int64_t>(f);
    check_is_table(table, *this, "feature_tables", f);
    add_feature(table);
  }
}

void TableLayout::add_feature(int64_t index) {
  const BatchTable& table = tables[index];
  type = features.empty() ? table.type : c10::promoteTypes(type, table.type);
  features.push_back({index, columns, positions_columns});
  columns += table.dim;
  if (table.mode != BagMode::Max) return;
  positions_columns += table.dim;
  has_max_ = true;
}

bool TableLayout::is_sparse(int64_t table, at::IntArrayRef sparse_tables) const {
  return std::find(sparse_tables.begin(), sparse_tables.end(), table) != sparse_tables.end();
}

c10::SymInt TableLookups::num_bags(const TableLayout& layout) const {
  return (offsets.sym_size(0) - 1) / static_cast<int64_t>(layout.features.size());
}

void check_table_lookups(const TableLookups& lookups, const TableLayout& layout) {
  const auto& [indices, offsets, weights] = lookups;
  const int64_t num_features = static_cast<int64_t>(layout.features.size());
  TORCH_CHECK_VALUE(indices.dim() == 1, kOp,
                    ": indices has to be a 1D Tensor, but got Tensor of dimension ", indices.dim());
  check_index_type(indices, "indices", 2, kOp);
  TORCH_CHECK_VALUE(offsets.dim() == 1, kOp,
                    ": offsets has to be a 1D Tensor, but got Tensor of dimension ", offsets.dim());
  check_index_type(offsets, "offsets", 3, kOp);
  const c10::SymInt size = offsets.sym_size(0);
  TORCH_CHECK_VALUE(size >= 1 && (size - 1) % num_features == 0, kOp, ": offsets of ", num_features,
                    " features and B bags of each has to have ", num_features,
                    " * B + 1 elements, but has ", size);
  check_same_device(indices, offsets, kOp);
  if (!weights) return;
  TORCH_CHECK_VALUE(weights->sym_sizes() == indices.sym_sizes(), kOp,
                    ": per_sample_weights has to have the shape of indices ", indices.sym_sizes(),
                    ", but has ", weights->sym_sizes());
  check_same_device(indices, *weights, kOp);
  for (size_t f = 0; f < layout.features.size(); ++f) {
    check_weights_dtype(*weights, layout.table_of(layout.features[f]), f);
  }
}

void check_tables(at::TensorList weights, const TableLookups& lookups, const TableLayout& layout) {
  check_table_lookups(lookups, layout);
  for (const at::Tensor& weight : weights) check_same_device(weight, lookups.indices, kOp);
}

void check_table_list(at::IntArrayRef tables, const TableLayout& layout, const char* name) {
  for (size_t i = 0; i < tables.size(); ++i) check_is_table(tables[i], layout, name, i);
}

void check_sparse_tables(at::IntArrayRef sparse_tables, const TableLayout& layout) {
  check_table_list(sparse_tables, layout, "sparse_tables");
  for (const int64_t table : sparse_tables) {
    if (layout.tables[table].mode == BagMode::Max) check_max_options(false, /*sparse=*/true);
  }
}

void refuse_index(int64_t position, int64_t index, size_t feature, const TableLayout& layout) {
  const BatchFeature& of_index = layout.features[feature];
  C10_THROW_ERROR(Error, c10::str("Index ", position, " of input takes value ", index,
                                  " which is not in the valid range [0, ",
                                  layout.table_of(of_index).num_weights, ") of table ",
                                  of_index.table, ", which feature ", feature, " reads"));
}

void check_tables_gradient(const at::Tensor& grad_output, const OptionalTensor& positions,
                           const TableLookups& lookups, const TableLayout& layout) {
  check_table_lookups(lookups, layout);
  check_same_device(grad_output, lookups.indices, kOp);
  const c10::SymInt num_bags = lookups.num_bags(layout);
  TORCH_CHECK(grad_output.dim() == 2 && grad_output.sym_size(0) == num_bags &&
                  grad_output.sym_size(1) == layout.columns &&
                  grad_output.scalar_type() == layout.type,
              kOp, ": grad_output must be (", num_bags, ", ", layout.columns, ") of ", layout.type,
              ", but is ", grad_output.sym_sizes(), " of ", grad_output.scalar_type());
  TORCH_CHECK(positions.has_value() == layout.has_max(), kOp,
              ": positions must be given if a feature is in mode max, and not otherwise");
  if (!positions) return;
  TORCH_CHECK(positions->scalar_type() == at::kLong && positions->dim() == 2 &&
                  positions->sym_size(0) == num_bags &&
                  positions->sym_size(1) == layout.positions_columns,
              kOp, ": positions must be int64 (", num_bags, ", ", layout.positions_columns,
              "), but is ", positions->sym_sizes());
  check_same_device(grad_output, *positions, kOp);
}

void check_tables_weights_gradient(const at::Tensor& grad_output, at::TensorList weights,
                                   const OptionalTensor& positions, const TableLookups& lookups,
                                   const TableLayout& layout) {
  check_tables(weights, lookups, layout);
  check_tables_gradient(grad_output, positions, lookups, layout);
  for (const BatchFeature& feature : layout.features) {
    const at::ScalarType type = layout.table_of(feature).type;
    TORCH_CHECK(accumulator_type(type) == accumulator_type(layout.type), kOp,
                ": per_sample_weights are for tables of one accumulation dtype, but table ",
                feature.table, " is ", c10::toString(type));
  }
}

std::vector<TableUpdate> TablesUpdate::of_tables() const {
  check_table_list(updated_tables, layout, "updated_tables");
  const size_t states = count_state_tensors(options), count = updated_tables.size();
  TORCH_CHECK(state.size() == states * count,
              "embedding_bag_tables_update_: ", name_of(options.rule), " has ", states,
              " state tensors for each of the ", count, " tables, but got ", state.size());
  std::vector<TableUpdate> updates;
  updates.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const auto before = updated_tables.slice(0, i);
    TORCH_CHECK_VALUE(std::find(before.begin(), before.end(), updated_tables[i]) == before.end(),
                      "embedding_bag_tables_update_: updated_tables[", i, "] is ",
                      updated_tables[i], ", as one before it");
    updates.push_back(
        {weights[updated_tables[i]], state.slice(i * states, states), grad_output, {}, options});
  }
  return updates;
}

void check_tables_update(const TablesUpdate& update) {
  check_tables(update.weights, update.lookups, update.layout);
  check_tables_gradient(update.grad_output, update.positions, update.lookups, update.layout);
  for (const TableUpdate& table : update.of_tables()) check_updated_table(table);
}

}  // namespace myemb
