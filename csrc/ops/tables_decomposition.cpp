// embedding_bag_tables and its gradients as embedding_bag and its gradients, feature by feature:
// where they are differentiated in ways that the ops themselves are not.

#include <ops/tables.h>

#include <ops/autocast.h>
#include <ops/decompositions.h>
#include <ops/fused_table.h>
#include <ops/types.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/where.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <optional>

namespace myemb {
namespace {

// One feature's part of a call.
struct FeatureCall {
  at::Tensor indices;
  at::Tensor offsets;
  OptionalTensor per_sample_weights;
  bool include_last_offset;
  int64_t begin;      // its first lookup, or 0 where the lookups of all features are there
  at::Tensor is_own;  // which lookups are its own, or undefined if all are

  // What a call of embedding_bag gives for the feature's own bags.
  at::Tensor output(const at::Tensor& of_bags) const {
    return is_own.defined() ? of_bags.slice_symint(0, 1, of_bags.sym_size(0) - 1) : of_bags;
  }

  // A value of each of its own bags, as embedding_bag's gradients take it.
  at::Tensor of_bags(const at::Tensor& values, int64_t of_others) const {
    return is_own.defined() ? at::constant_pad_nd(values, {0, 0, 1, 1}, of_others) : values;
  }

  // The part of grad_output that the feature's output had.
  at::Tensor grad(const at::Tensor& grad_output, const BatchFeature& feature,
                  const BatchTable& table) const {
    return of_bags(grad_output.narrow_symint(1, feature.column, table.dim).to(table.type), 0);
  }

  // The positions of its maxima in its own indices.
  OptionalTensor positions(const OptionalTensor& all, const BatchFeature& feature,
                           const BatchTable& table) const {
    if (table.mode != BagMode::Max) return std::nullopt;
    const at::Tensor own = all->narrow_symint(1, feature.positions_column, table.dim);
    return of_bags(at::where(own.lt(0), own, own - begin), -1);
  }
};

// Whether the values of a tensor can be read: not under vmap, nor where a graph is recorded.
bool can_be_read(const at::Tensor& tensor) {
  using c10::DispatchKey;
  const c10::DispatchKeySet recorded{DispatchKey::Python, DispatchKey::Functionalize};
  if (tensor.is_meta() || tensor.key_set().has_any(recorded) ||
      c10::impl::tls_is_dispatch_key_included(DispatchKey::Python)) {
    return false;
  }
  if (!is_transformed()) return true;
  // grad and jvp read through; whether vmap is below them, only functorch can tell, of whose
  // headers torch's packages leave out a part.
  try {
    tensor.select(0, 0).item();
    return true;
  } catch (const c10::Error&) {
    return false;
  }
}

// The calls of embedding_bag that a call is. Where offsets can be read, each feature has its own
// lookups. Elsewhere each has the lookups of all: those of others are of row 0, in a bag before its
// own bags and one after them.
class FeatureCalls {
 public:
  // Those that the caller must have cut read the offsets in any case.
  FeatureCalls(const TableLookups& lookups, const TableLayout& layout, bool must_cut)
      : lookups_(lookups),
        num_bags_(lookups.num_bags(layout)),
        offsets_(checked_offsets(lookups.offsets, lookups.indices.sym_size(0),
                                 /*include_last_offset=*/true)),
        cuts_(must_cut || can_be_read(offsets_) || has_no_row(layout)) {}

  FeatureCall operator[](int64_t feature) const {
    const at::Tensor offsets = offsets_.narrow_symint(0, num_bags_ * feature, num_bags_ + 1);
    return cuts_ ? cut(offsets) : masked(offsets);
  }

 private:
  // Nor one to put the lookups of others.
  static bool has_no_row(const TableLayout& layout) {
    return std::any_of(layout.features.begin(), layout.features.end(), [&](const auto& feature) {
      return layout.table_of(feature).num_weights.sym_eq(0).guard_bool(__FILE__, __LINE__);
    });
  }

  FeatureCall cut(const at::Tensor& offsets) const {
    const int64_t begin = offsets.select(0, 0).item<int64_t>();
    const int64_t end = offsets.select(0, -1).item<int64_t>();
    OptionalTensor weights;
    if (lookups_.per_sample_weights) weights = lookups_.per_sample_weights->slice(0, begin, end);
    return {lookups_.indices.slice(0, begin, end), offsets - begin, weights,
            /*include_last_offset=*/true,          begin,           /*is_own=*/{}};
  }

  FeatureCall masked(const at::Tensor& offsets) const {
    const at::Tensor position = at::arange(lookups_.indices.sym_size(0), offsets.options());
    const at::Tensor is_own =
        position.ge(offsets.select(0, 0)).logical_and(position.lt(offsets.select(0, -1)));
    OptionalTensor weights;
    if (lookups_.per_sample_weights) weights = at::where(is_own, *lookups_.per_sample_weights, 0);
    return {at::where(is_own, lookups_.indices, 0),
            at::constant_pad_nd(offsets, {1, 0}),
            weights,
            /*include_last_offset=*/false,
            /*begin=*/0,
            is_own};
  }

  const TableLookups& lookups_;
  const c10::SymInt num_bags_;
  const at::Tensor offsets_;
  const bool cuts_;
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

at::Tensor decompose_dense_or_values(const at::Tensor& grad, const FeatureCall& call,
                                     const OptionalTensor& positions, const BatchTable& table,
                                     bool sparse) {
  const int64_t mode = static_cast<int64_t>(table.mode);
  if (sparse) {
    return embedding_bag_sparse_backward(grad, call.indices, call.offsets, table.num_weights, false,
                                         mode, call.per_sample_weights, call.include_last_offset,
                                         padding_of(table));
  }
  return embedding_bag_dense_backward(grad, call.indices, call.offsets, positions,
                                      table.num_weights, false, mode, call.per_sample_weights,
                                      call.include_last_offset, padding_of(table));
}

}  // namespace

at::Tensor decompose_tables(at::TensorList weights, const TableLookups& lookups,
                            const TableLayout& layout, at::IntArrayRef sparse_tables) {
  const FeatureCalls calls(lookups, layout, /*must_cut=*/false);
  std::vector<at::Tensor> outputs;
  for (const BatchFeature& feature : layout.features) {
    const FeatureCall call = calls[static_cast<int64_t>(outputs.size())];
    const BatchTable& table = layout.table_of(feature);
    outputs.push_back(call.output(embedding_bag(
        weights[feature.table], call.indices, call.offsets, false, static_cast<int64_t>(table.mode),
        layout.is_sparse(feature.table, sparse_tables), call.per_sample_weights,
        call.include_last_offset, padding_of(table))));
  }
  return at::cat(outputs, 1);
}

// Exported for tests/cudasim, which compiles its caller on CUDA a second time.
MYEMB_API std::vector<at::Tensor> decompose_tables_backward(
    const at::Tensor& grad_output, const OptionalTensor& positions, const TableLookups& lookups,
    const TableLayout& layout, at::IntArrayRef sparse_tables, at::IntArrayRef wanted_tables) {
  const FeatureCalls calls(lookups, layout, /*must_cut=*/!sparse_tables.empty());
  std::vector<at::Tensor> gradients;
  for (const int64_t t : wanted_tables) {
    const BatchTable& table = layout.tables[t];
    const bool sparse = layout.is_sparse(t, sparse_tables);
    std::vector<at::Tensor> parts;
    for (size_t f = 0; f < layout.features.size(); ++f) {
      const BatchFeature& feature = layout.features[f];
      if (feature.table != t) continue;
      const FeatureCall call = calls[static_cast<int64_t>(f)];
      parts.push_back(decompose_dense_or_values(call.grad(grad_output, feature, table), call,
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
  const FeatureCalls calls(lookups, layout, /*must_cut=*/false);
  std::vector<at::Tensor> parts;
  at::Tensor sum;  // of parts that are not the features' own alone
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const BatchFeature& feature = layout.features[f];
    const FeatureCall call = calls[static_cast<int64_t>(f)];
    const BatchTable& table = layout.table_of(feature);
    const at::Tensor part = embedding_bag_per_sample_weights_backward(
        call.grad(grad_output, feature, table), weights[feature.table], call.indices, call.offsets,
        call.positions(positions, feature, table), static_cast<int64_t>(table.mode),
        call.include_last_offset, padding_of(table));
    if (!call.is_own.defined()) {
      parts.push_back(part);
      continue;
    }
    const at::Tensor own = at::where(call.is_own, part, 0);
    sum = sum.defined() ? sum + own : own;
  }
  return sum.defined() ? sum : at::cat(parts, 0);
}

std::vector<LookupGradient> lookup_gradients_of_table(int64_t t, const at::Tensor& grad_output,
                                                      const OptionalTensor& positions,
                                                      const TableLookups& lookups,
                                                      const TableLayout& layout) {
  const FeatureCalls calls(lookups, layout, /*must_cut=*/true);
  const BatchTable& table = layout.tables[t];
  std::vector<LookupGradient> gradients;
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const BatchFeature& feature = layout.features[f];
    if (feature.table != t) continue;
    const FeatureCall call = calls[static_cast<int64_t>(f)];
    gradients.push_back({call.grad(grad_output, feature, table),
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
  const FeatureCalls calls(lookups, layout, /*must_cut=*/true);
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
  OptionalTensor factors = per_sample_weights;
  for (const at::Tensor& weight : weights) factors = weights_under_autocast(weight, factors);
  const TableLookups lookups{indices, offsets, factors};
  check_tables(weights, lookups, layout);
  check_sparse_tables(sparse_tables, layout);
  const FeatureCalls calls(lookups, layout, /*must_cut=*/true);
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const FeatureCall call = calls[static_cast<int64_t>(f)];
    const int64_t num_rows = layout.table_of(layout.features[f]).num_weights.expect_int();
    const auto bad = first_bad_index(call.indices, num_rows);
    if (bad) refuse_index(call.begin + *bad, call.indices[*bad].item<int64_t>(), f, layout);
  }
}

}  // namespace myemb
