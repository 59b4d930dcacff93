// embedding_bag_tables and its gradients as embedding_bag and its gradients, feature by feature:
// where they are differentiated in ways that the ops themselves are not.

#include <ops/tables.h>

#include <ops/fused_table.h>
#include <ops/types.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <optional>

namespace myemb {
namespace {

// One feature's part of a call.
struct FeatureCall {
  at::Tensor indices;
  at::Tensor offsets;
  OptionalTensor per_sample_weights;
  int64_t begin;  // its first lookup

  // The positions of its maxima in its own indices.
  OptionalTensor positions(const OptionalTensor& all, const BatchFeature& feature,
                           const BatchTable& table) const {
    if (table.mode != BagMode::Max) return std::nullopt;
    const at::Tensor own = all->narrow_symint(1, feature.positions_column, table.dim);
    return at::where(own.lt(0), own, own - begin);
  }
};

class FeatureCalls {
 public:
  FeatureCalls(const TableLookups& lookups, const TableLayout& layout)
      : lookups_(lookups),
        num_bags_(lookups.num_bags(layout)),
        offsets_(checked_offsets(lookups.offsets, lookups.indices.sym_size(0),
                                 /*include_last_offset=*/true)) {}

  FeatureCall operator[](int64_t feature) const {
    const c10::SymInt first = num_bags_ * feature;
    at::Tensor offsets = offsets_.narrow_symint(0, first, num_bags_ + 1);
    const int64_t begin = offsets.select(0, 0).item<int64_t>();
    const int64_t end = offsets.select(0, -1).item<int64_t>();
    OptionalTensor weights;
    if (lookups_.per_sample_weights) weights = lookups_.per_sample_weights->slice(0, begin, end);
    return {lookups_.indices.slice(0, begin, end), offsets - begin, weights, begin};
  }

 private:
  const TableLookups& lookups_;
  const c10::SymInt num_bags_;
  const at::Tensor offsets_;
};

OptionalSymInt padding_of(const BatchTable& table) {
  const bool padded = table.padding_idx.sym_ge(0).guard_bool(__FILE__, __LINE__);
  return padded ? OptionalSymInt(table.padding_idx) : std::nullopt;
}

// The position of the first index outside [0, num_rows), a number that their dtype may not have.
std::optional<int64_t> first_bad_index(const at::Tensor& indices, int64_t num_rows) {
  const at::Tensor rows = indices.to(at::kLong);
  if (rows.is_cpu() && rows.is_contiguous()) {
    const auto* const begin = rows.const_data_ptr<int64_t>();  // ten times as fast as below
    const auto* const end = begin + rows.numel();
    const auto* const bad =
        std::find_if(begin, end, [&](int64_t row) { return row < 0 || row >= num_rows; });
    return bad == end ? std::nullopt : std::optional<int64_t>(bad - begin);
  }
  const at::Tensor is_bad = rows.lt(0).logical_or(rows.ge(num_rows));
  if (!is_bad.any().item<bool>()) return std::nullopt;
  return is_bad.nonzero()[0][0].item<int64_t>();
}

// The part of grad_output that one feature's output had.
at::Tensor grad_of(const at::Tensor& grad_output, const BatchFeature& feature,
                   const BatchTable& table) {
  return grad_output.narrow_symint(1, feature.column, table.dim).to(table.type);
}

at::Tensor decompose_dense_or_values(const at::Tensor& grad, const FeatureCall& call,
                                     const OptionalTensor& positions, const BatchTable& table,
                                     bool sparse) {
  const int64_t mode = static_cast<int64_t>(table.mode);
  if (sparse) {
    return embedding_bag_sparse_backward(grad, call.indices, call.offsets, table.num_weights, false,
                                         mode, call.per_sample_weights, true, padding_of(table));
  }
  return embedding_bag_dense_backward(grad, call.indices, call.offsets, positions,
                                      table.num_weights, false, mode, call.per_sample_weights, true,
                                      padding_of(table));
}

}  // namespace

at::Tensor decompose_tables(at::TensorList weights, const TableLookups& lookups,
                            const TableLayout& layout, at::IntArrayRef sparse_tables) {
  const FeatureCalls calls(lookups, layout);
  std::vector<at::Tensor> outputs;
  for (const BatchFeature& feature : layout.features) {
    const FeatureCall call = calls[static_cast<int64_t>(outputs.size())];
    const BatchTable& table = layout.table_of(feature);
    outputs.push_back(embedding_bag(
        weights[feature.table], call.indices, call.offsets, false, static_cast<int64_t>(table.mode),
        layout.is_sparse(feature.table, sparse_tables), call.per_sample_weights,
        /*include_last_offset=*/true, padding_of(table)));
  }
  return at::cat(outputs, 1);
}

std::vector<at::Tensor> decompose_tables_backward(
    const at::Tensor& grad_output, const OptionalTensor& positions, const TableLookups& lookups,
    const TableLayout& layout, at::IntArrayRef sparse_tables, at::IntArrayRef wanted_tables) {
  const FeatureCalls calls(lookups, layout);
  std::vector<at::Tensor> gradients;
  for (const int64_t t : wanted_tables) {
    const BatchTable& table = layout.tables[t];
    const bool sparse = layout.is_sparse(t, sparse_tables);
    std::vector<at::Tensor> parts;
    for (size_t f = 0; f < layout.features.size(); ++f) {
      const BatchFeature& feature = layout.features[f];
      if (feature.table != t) continue;
      const FeatureCall call = calls[static_cast<int64_t>(f)];
      parts.push_back(decompose_dense_or_values(grad_of(grad_output, feature, table), call,
                                                call.positions(positions, feature, table), table,
                                                sparse));
    }
    at::Tensor gradient;
    if (parts.empty()) {
      const c10::SymInt rows = sparse ? c10::SymInt(0) : table.num_weights;
      gradient =
          grad_output.new_zeros_symint({rows, table.dim}, grad_output.options().dtype(table.type));
    } else if (sparse) {
      gradient = at::cat(parts, 0);
    } else {
      gradient = parts[0];
      for (size_t i = 1; i < parts.size(); ++i) gradient = gradient + parts[i];
    }
    gradients.push_back(std::move(gradient));
  }
  return gradients;
}

at::Tensor decompose_tables_per_sample_weights_backward(const at::Tensor& grad_output,
                                                        at::TensorList weights,
                                                        const OptionalTensor& positions,
                                                        const TableLookups& lookups,
                                                        const TableLayout& layout) {
  const FeatureCalls calls(lookups, layout);
  std::vector<at::Tensor> parts;
  for (const BatchFeature& feature : layout.features) {
    const FeatureCall call = calls[static_cast<int64_t>(parts.size())];
    const BatchTable& table = layout.table_of(feature);
    parts.push_back(embedding_bag_per_sample_weights_backward(
        grad_of(grad_output, feature, table), weights[feature.table], call.indices, call.offsets,
        call.positions(positions, feature, table), static_cast<int64_t>(table.mode),
        /*include_last_offset=*/true, padding_of(table)));
  }
  return at::cat(parts, 0);
}

std::vector<LookupGradient> lookup_gradients_of_table(int64_t t, const at::Tensor& grad_output,
                                                      const OptionalTensor& positions,
                                                      const TableLookups& lookups,
                                                      const TableLayout& layout) {
  const FeatureCalls calls(lookups, layout);
  const BatchTable& table = layout.tables[t];
  std::vector<LookupGradient> gradients;
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const BatchFeature& feature = layout.features[f];
    if (feature.table != t) continue;
    const FeatureCall call = calls[static_cast<int64_t>(f)];
    gradients.push_back({grad_of(grad_output, feature, table),
                         {.indices = call.indices,
                          .offsets = call.offsets,
                          .positions = call.positions(positions, feature, table),
                          .per_sample_weights = call.per_sample_weights,
                          .mode = static_cast<int64_t>(table.mode),
                          .include_last_offset = true,
                          .padding_idx = padding_of(table)}});
  }
  return gradients;
}

std::vector<at::Tensor> rows_of_tables(at::IntArrayRef tables, const TableLookups& lookups,
                                       const TableLayout& layout) {
  const FeatureCalls calls(lookups, layout);
  std::vector<at::Tensor> rows;
  for (const int64_t t : tables) {
    std::vector<at::Tensor> parts;
    for (size_t f = 0; f < layout.features.size(); ++f) {
      if (layout.features[f].table != t) continue;
      parts.push_back(calls[static_cast<int64_t>(f)].indices.to(at::kLong));
    }
    rows.push_back(at::cat(parts, 0));
  }
  return rows;
}

void check_embedding_bag_tables(at::TensorList weights, const at::Tensor& indices,
                                const at::Tensor& offsets, at::OptionalIntArrayRef feature_tables,
                                at::OptionalIntArrayRef modes,
                                const OptionalTensor& per_sample_weights,
                                at::OptionalSymIntArrayRef padding_idx,
                                at::IntArrayRef sparse_tables) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const TableLookups lookups{indices, offsets, per_sample_weights};
  check_tables(weights, lookups, layout);
  check_sparse_tables(sparse_tables, layout);
  const FeatureCalls calls(lookups, layout);
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const FeatureCall call = calls[static_cast<int64_t>(f)];
    const int64_t num_rows = layout.table_of(layout.features[f]).num_weights.expect_int();
    const auto bad = first_bad_index(call.indices, num_rows);
    if (bad) refuse_index(call.begin + *bad, call.indices[*bad].item<int64_t>(), f, layout);
  }
}

}  // namespace myemb
