// embedding_bag_tables: what it is for autograd and fake tensors. Its gradients are ops themselves,
// in tables_backward.cpp.

#include <ops/tables_update.h>

#include <ops/decompositions.h>
#include <ops/fused_table.h>
#include <ops/node.h>
#include <ops/sparse_rows.h>
#include <ops/typed_op.h>
#include <ops/types.h>

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

namespace myemb {
namespace {

at::Tensor tables_meta(at::TensorList weights, const at::Tensor& indices, const at::Tensor& offsets,
                       at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
                       const OptionalTensor& per_sample_weights,
                       at::OptionalSymIntArrayRef padding_idx, at::IntArrayRef sparse_tables) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const TableLookups lookups{indices, offsets, per_sample_weights};
  check_tables(weights, lookups, layout);
  check_sparse_tables(sparse_tables, layout);
  return weights[0].new_empty_symint({lookups.num_bags(layout), layout.columns},
                                     weights[0].options().dtype(layout.type));
}

std::tuple<at::Tensor, at::Tensor> tables_max_meta(
    at::TensorList weights, const at::Tensor& indices, const at::Tensor& offsets,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    const OptionalTensor& per_sample_weights, at::OptionalSymIntArrayRef padding_idx) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const at::Tensor out = tables_meta(weights, indices, offsets, feature_tables, modes,
                                     per_sample_weights, padding_idx, {});
  return {out, out.new_empty_symint({out.sym_size(0), layout.positions_columns},
                                    out.options().dtype(at::kLong))};
}

const auto& tables_op() {
  static const auto op = typed_op<decltype(embedding_bag_tables)>("myemb::embedding_bag_tables");
  return op;
}

const auto& tables_max_op() {
  static const auto op =
      typed_op<decltype(embedding_bag_tables_max)>("myemb::embedding_bag_tables_max");
  return op;
}

// The fused ones among the tables of a call.
struct FusedTables {
  std::vector<at::Tensor> weights;                  // of all tables
  std::vector<std::shared_ptr<FusedTable>> tables;  // null: not fused

  // Null if none is.
  static std::shared_ptr<const FusedTables> of(at::TensorList weights) {
    auto fused = std::make_shared<FusedTables>();
    bool any = false;
    for (const at::Tensor& weight : weights) {
      fused->tables.push_back(wants_gradient(weight) ? FusedTable::of(weight) : nullptr);
      any |= fused->tables.back() != nullptr;
    }
    if (!any) return nullptr;
    fused->weights = weights.vec();
    return fused;
  }
};

struct TablesCall {
  static constexpr auto kName =
      "EmbeddingBagTablesBackward";  // inputs: weights, per_sample_weights

  at::Tensor indices;
  at::Tensor offsets;
  OptionalTensor per_sample_weights;
  OptionalTensor positions;
  // Empty unless per_sample_weights want a gradient: what is saved must not change in place.
  std::vector<at::Tensor> weights;
  std::vector<c10::SymInt> num_weights;
  std::vector<c10::SymInt> embedding_dims;
  std::vector<c10::SymInt> padding_idx;
  std::vector<int64_t> dtypes;
  std::vector<int64_t> feature_tables;
  std::vector<int64_t> modes;
  std::vector<int64_t> sparse_tables;
  std::shared_ptr<const FusedTables> fused;  // or null

  auto tensors() { return std::tie(indices, offsets, per_sample_weights, positions, weights); }
  auto options() {
    return std::tie(num_weights, embedding_dims, padding_idx, dtypes, feature_tables, modes,
                    sparse_tables);
  }

  void set_layout(const TableLayout& layout) {
    for (const BatchTable& table : layout.tables) {
      num_weights.push_back(table.num_weights);
      embedding_dims.push_back(table.dim);
      padding_idx.push_back(table.padding_idx);
      dtypes.push_back(static_cast<int64_t>(table.type));
      modes.push_back(static_cast<int64_t>(table.mode));
    }
    for (const BatchFeature& feature : layout.features) feature_tables.push_back(feature.table);
  }

  std::vector<at::Tensor> gradients(const at::Tensor& grad, const std::vector<bool>& wanted) const {
    const size_t count = num_weights.size();
    std::vector<at::Tensor> found(count + 1);
    // No feature reads a table, no gradient.
    std::vector<bool> is_read(count);
    for (const int64_t table : feature_tables) is_read[table] = true;
    std::vector<int64_t> wanted_tables, updated_tables;
    for (size_t t = 0; t < count; ++t) {
      if (!wanted[t] || !is_read[t]) continue;
      const bool is_updated = fused && fused->tables[t] && fused->tables[t]->takes_gradient();
      (is_updated ? updated_tables : wanted_tables).push_back(static_cast<int64_t>(t));
    }
    if (!updated_tables.empty()) add_to_fused(grad, updated_tables);
    if (!wanted_tables.empty()) {
      std::vector<at::Tensor> of_tables = grad_weights(grad, wanted_tables);
      for (size_t i = 0; i < wanted_tables.size(); ++i) {
        found[wanted_tables[i]] = std::move(of_tables[i]);
      }
    }
    if (wanted[count] && per_sample_weights) {
      found[count] =
          myemb::embedding_bag_tables_per_sample_weights_backward(
              grad, weights, indices, offsets, positions, feature_tables, modes, padding_idx)
              .to(per_sample_weights->scalar_type());
    }
    return found;
  }

  void add_to_fused(const at::Tensor& grad, const std::vector<int64_t>& updated_tables) const;

  std::vector<at::Tensor> grad_weights(const at::Tensor& grad,
                                       const std::vector<int64_t>& wanted_tables) const {
    std::vector<at::Tensor> found = myemb::embedding_bag_tables_backward(
        grad, indices, offsets, positions, num_weights, embedding_dims, dtypes, feature_tables,
        modes, per_sample_weights, padding_idx, sparse_tables, wanted_tables);
    if (!sparse_tables.empty()) make_sparse(found, wanted_tables);
    return found;
  }

  // From values to sparse gradients.
  void make_sparse(std::vector<at::Tensor>& found, const std::vector<int64_t>& tables) const {
    const TableLayout layout({num_weights, embedding_dims, dtypes},
                             {feature_tables, modes, padding_idx});
    std::vector<int64_t> sparse;
    for (const int64_t t : tables) {
      if (layout.is_sparse(t, sparse_tables)) sparse.push_back(t);
    }
    const auto rows = rows_of_tables(sparse, {indices, offsets, per_sample_weights}, layout);
    size_t next = 0;
    for (size_t i = 0; i < tables.size(); ++i) {
      const int64_t t = tables[i];
      if (next == sparse.size() || sparse[next] != t) continue;
      found[i] = sparse_rows(rows[next++], found[i], num_weights[t], padding_idx[t]);
    }
  }
};

// What a call has for its fused tables.
class TablesGradient final : public JointGradient {
 public:
  TablesGradient(const at::Tensor& grad, const TablesCall& call, size_t tables)
      : JointGradient(tables), grad_(grad), call_(call) {}

 protected:
  std::vector<LookupGradient> gradient_of(int64_t t) const override {
    return lookup_gradients_of_table(t, grad_, call_.positions, lookups(), layout());
  }

  // Tables whose steps have the same numbers are updated together.
  void update(const std::vector<Member>& members) const override {
    std::vector<UpdateStep> steps;
    steps.reserve(members.size());
    for (const Member& member : members) steps.push_back(member.fused->next_step(/*sparse=*/true));
    std::vector<bool> is_done(members.size());
    for (size_t i = 0; i < members.size(); ++i) {
      if (is_done[i]) continue;
      std::vector<int64_t> tables;
      std::vector<at::Tensor> state;
      for (size_t j = i; j < members.size(); ++j) {
        if (is_done[j] || !(steps[j].options == steps[i].options)) continue;
        is_done[j] = true;
        tables.push_back(members[j].table);
        state.insert(state.end(), steps[j].state.begin(), steps[j].state.end());
      }
      embedding_bag_tables_update_({call_.fused->weights, state, grad_, call_.positions, lookups(),
                                    layout(), tables, steps[i].options});
    }
  }

 private:
  TableLookups lookups() const { return {call_.indices, call_.offsets, call_.per_sample_weights}; }
  TableLayout layout() const {
    return TableLayout({call_.num_weights, call_.embedding_dims, call_.dtypes},
                       {call_.feature_tables, call_.modes, call_.padding_idx});
  }

  const at::Tensor grad_;
  const TablesCall call_;
};

void TablesCall::add_to_fused(const at::Tensor& grad,
                              const std::vector<int64_t>& updated_tables) const {
  const auto gradient = std::make_shared<TablesGradient>(grad, *this, updated_tables.size());
  for (const int64_t t : updated_tables) fused->tables[t]->add(gradient, t);
}

bool any_wants_gradient(at::TensorList tensors) {
  for (const at::Tensor& tensor : tensors) {
    if (wants_gradient(tensor)) return true;
  }
  return false;
}

at::Tensor tables_autograd(c10::DispatchKeySet keys, at::TensorList weights,
                           const at::Tensor& indices, const at::Tensor& offsets,
                           at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
                           const OptionalTensor& per_sample_weights,
                           at::OptionalSymIntArrayRef padding_idx, at::IntArrayRef sparse_tables) {
  if (needs_decomposition(weights) || needs_decomposition({pointer(per_sample_weights)})) {
    const TableLayout layout(weights, {feature_tables, modes, padding_idx});
    const TableLookups lookups{indices, offsets, per_sample_weights};
    check_tables(weights, lookups, layout);
    check_sparse_tables(sparse_tables, layout);
    return decompose_tables(weights, lookups, layout, sparse_tables);
  }
  const bool weights_want_gradient = wants_gradient(per_sample_weights);
  if (!weights_want_gradient && !any_wants_gradient(weights)) {
    return below_autograd(tables_op(), keys, weights, indices, offsets, feature_tables, modes,
                          per_sample_weights, padding_idx, sparse_tables);
  }
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  at::Tensor out, positions;
  if (layout.has_max()) {
    check_sparse_tables(sparse_tables, layout);
    // Another op, and so a call of its own: its kernels may not be under the same keys.
    const at::AutoDispatchBelowADInplaceOrView below;
    std::tie(out, positions) = tables_max_op().call(weights, indices, offsets, feature_tables,
                                                    modes, per_sample_weights, padding_idx);
  } else {
    out = below_autograd(tables_op(), keys, weights, indices, offsets, feature_tables, modes,
                         per_sample_weights, padding_idx, sparse_tables);
  }
  TablesCall call;
  call.indices = indices;
  call.offsets = offsets;
  call.per_sample_weights = per_sample_weights;
  call.positions = if_defined(positions);
  if (weights_want_gradient) call.weights = weights.vec();
  if (!is_transformed()) call.sparse_tables = sparse_tables.vec();
  call.set_layout(layout);
  call.fused = FusedTables::of(weights);
  return with_gradient(std::move(out), std::move(call), weights, per_sample_weights);
}

// The maxima of a call, differentiable: through the decomposition, but for the positions.
std::tuple<at::Tensor, at::Tensor> tables_max_autograd(
    c10::DispatchKeySet keys, at::TensorList weights, const at::Tensor& indices,
    const at::Tensor& offsets, at::OptionalIntArrayRef feature_tables,
    at::OptionalIntArrayRef modes, const OptionalTensor& per_sample_weights,
    at::OptionalSymIntArrayRef padding_idx) {
  auto [out, positions] = below_autograd(tables_max_op(), keys, weights, indices, offsets,
                                         feature_tables, modes, per_sample_weights, padding_idx);
  if (any_wants_gradient(weights) || wants_gradient(per_sample_weights) ||
      needs_decomposition(weights)) {
    out = embedding_bag_tables(weights, indices, offsets, feature_tables, modes, per_sample_weights,
                               padding_idx, {});
  }
  return {out, positions};
}

}  // namespace

at::Tensor embedding_bag_tables(at::TensorList weights, const at::Tensor& indices,
                                const at::Tensor& offsets, at::OptionalIntArrayRef feature_tables,
                                at::OptionalIntArrayRef modes,
                                const OptionalTensor& per_sample_weights,
                                at::OptionalSymIntArrayRef padding_idx,
                                at::IntArrayRef sparse_tables) {
  return tables_op().call(weights, indices, offsets, feature_tables, modes, per_sample_weights,
                          padding_idx, sparse_tables);
}

std::tuple<at::Tensor, at::Tensor> embedding_bag_tables_max(
    at::TensorList weights, const at::Tensor& indices, const at::Tensor& offsets,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    const OptionalTensor& per_sample_weights, at::OptionalSymIntArrayRef padding_idx) {
  return tables_max_op().call(weights, indices, offsets, feature_tables, modes, per_sample_weights,
                              padding_idx);
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) {
  m.impl("embedding_bag_tables", &tables_meta);
  m.impl("embedding_bag_tables_max", &tables_max_meta);
}

TORCH_LIBRARY_IMPL(myemb, Autograd, m) {
  m.impl("embedding_bag_tables", &tables_autograd);
  m.impl("embedding_bag_tables_max", &tables_max_autograd);
}

}  // namespace myemb
