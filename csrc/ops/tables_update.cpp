// embedding_bag_tables_update_: a step of an optimizer on many tables, for autograd and fake
// tensors.

#include <ops/tables_update.h>

#include <ops/typed_op.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

namespace myemb {
namespace {

const auto& tables_update_op() {
  static const auto op =
      typed_op<decltype(embedding_bag_tables_update_kernel<check_tables_update>)>(
          "myemb::embedding_bag_tables_update_");
  return op;
}

void tables_update_autograd(const TablesUpdate& update) {
  for (const TableUpdate& table : update.of_tables()) {
    check_written_in_place(table.weight, table.state);
  }
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    embedding_bag_tables_update_(update);
  }
  for (const int64_t t : update.updated_tables) bump_versions(update.weights[t]);
  bump_versions(update.state);
}

}  // namespace

void embedding_bag_tables_update_(const TablesUpdate& update) {
  const auto& [weights, state, grad_output, positions, lookups, layout, updated, options] = update;
  std::vector<int64_t> feature_tables, modes;
  std::vector<c10::SymInt> padding_idx;
  for (const BatchFeature& feature : layout.features) feature_tables.push_back(feature.table);
  for (const BatchTable& table : layout.tables) {
    modes.push_back(static_cast<int64_t>(table.mode));
    padding_idx.push_back(table.padding_idx);
  }
  tables_update_op().call(weights, state, grad_output, lookups.indices, lookups.offsets, positions,
                          feature_tables, modes, lookups.per_sample_weights, padding_idx, updated,
                          name_of(options.rule), options.lr, options.eps, options.weight_decay,
                          options.shrink, options.maximize, options.momentum, options.dampening,
                          options.nesterov, options.beta1, options.beta2, options.amsgrad,
                          name_of(options.rounding), static_cast<int64_t>(options.seed),
                          static_cast<int64_t>(options.step));
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) {
  m.impl("embedding_bag_tables_update_", &embedding_bag_tables_update_kernel<check_tables_update>);
}

TORCH_LIBRARY_IMPL(myemb, Autograd, m) {
  m.impl("embedding_bag_tables_update_",
         &embedding_bag_tables_update_kernel<tables_update_autograd>);
}

}  // namespace myemb
