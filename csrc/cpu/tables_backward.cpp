#include <cpu/grouped_tables.h>
#include <cpu/large_blocks.h>
#include <cpu/max_gradient.h>
#include <cpu/parallel.h>
#include <cpu/tables.h>
#include <ops/types.h>
#include <ops/views.h>

#include <torch/library.h>

namespace myemb {
namespace {

// The gradients of the tables of a call: places for them, and then all of them at once.
class TableGradients {
 public:
  TableGradients(const TableLayout& layout, const TableBags& bags) : layout_(layout), bags_(bags) {}

  // (V, D), zero but for the rows that were looked up.
  at::Tensor dense(int64_t t, const GroupedTable& grouped) {
    const BatchTable& table = layout_.tables[t];
    const int64_t num_weights = table.num_weights.expect_int();
    auto [gradient, is_zero] = maybe_zeros_result({num_weights, table.dim.expect_int()},
                                                  at::TensorOptions().dtype(table.type));
    SegmentSum sums = grouped.sums;
    sums.zeroed_rows = is_zero ? 0 : num_weights;
    sums.out = gradient.mutable_data_ptr();
    if (sums.positions && sums.rows.dim > 0) {
      maxima_.push_back({grouped, sums});
    } else {
      works_.push_back(sums);
    }
    return gradient;
  }

  // (lookups of the table, D), the values of a sparse gradient.
  at::Tensor sparse_values(int64_t t, const TableSources& sources, TableGrads& grads) {
    const BatchTable& table = layout_.tables[t];
    std::vector<size_t> features;
    int64_t lookups = 0;
    for (size_t f = 0; f < layout_.features.size(); ++f) {
      if (layout_.features[f].table != t) continue;
      features.push_back(f);
      lookups += bags_.num_lookups(f);
    }
    const at::Tensor values =
        empty_result({lookups, table.dim.expect_int()}, at::TensorOptions().dtype(table.type));
    auto* out = static_cast<char*>(values.mutable_data_ptr());
    for (const size_t f : features) {
      works_.push_back(BagExpansion{
          .rows = grads.rows(layout_.features[f], table, bags_.num_bags),
          .indices = bags_.indices(f),
          .segments = bags_.segments(f),
          .weights = sources.weights(layout_.features[f]),
          .padding_idx = table.padding_idx.expect_int(),
          .num_rows = table.num_weights.expect_int(),
          .out = out,
          .first_lookup = bags_.first_lookup(f),
          .bad = &no_bad_index_,
      });
      out += bags_.num_lookups(f) * values.size(1) * values.element_size();
    }
    return values;
  }

  void run() const {
    run_segments(works_);
    for (const Maxima& maxima : maxima_) {
      sum_maxima(maxima.grouped.maxima, bags_.num_lookups(), maxima.grouped.groups, maxima.sums);
    }
  }

 private:
  struct Maxima {
    const GroupedTable& grouped;
    SegmentSum sums;
  };

  const TableLayout& layout_;
  const TableBags& bags_;
  std::vector<SegmentWork> works_;
  std::vector<Maxima> maxima_;
  BadIndex no_bad_index_;
};

std::vector<at::Tensor> backward_cpu(const at::Tensor& grad_output, const at::Tensor& indices,
                                     const at::Tensor& offsets, const OptionalTensor& positions,
                                     at::SymIntArrayRef num_weights,
                                     at::SymIntArrayRef embedding_dims, at::IntArrayRef dtypes,
                                     at::OptionalIntArrayRef feature_tables,
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
  const TableBags bags(lookups, layout);
  TableGrads grads(grad_output, positions, layout);
  std::vector<int64_t> dense, sparse;
  for (const int64_t t : wanted_tables) {
    (layout.is_sparse(t, sparse_tables) ? sparse : dense).push_back(t);
  }
  const GroupedTables grouped(layout, bags, grads, dense, sparse);
  TableGradients gradients(layout, bags);
  std::vector<at::Tensor> found;
  found.reserve(wanted_tables.size());
  size_t next = 0;
  for (const int64_t t : wanted_tables) {
    found.push_back(layout.is_sparse(t, sparse_tables)
                        ? gradients.sparse_values(t, grouped.sources(), grads)
                        : gradients.dense(t, grouped[next++]));
  }
  gradients.run();
  return found;
}

at::Tensor per_sample_weights_backward_cpu(const at::Tensor& grad_output, at::TensorList weights,
                                           const at::Tensor& indices, const at::Tensor& offsets,
                                           const OptionalTensor& positions,
                                           at::OptionalIntArrayRef feature_tables,
                                           at::OptionalIntArrayRef modes,
                                           at::OptionalSymIntArrayRef padding_idx) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const OptionalTensor none;
  const TableLookups lookups{indices, offsets, none};
  check_tables_weights_gradient(grad_output, weights, positions, lookups, layout);
  const TableBags bags(lookups, layout);
  TableGrads grads(grad_output, positions, layout);
  const TableSources sources(layout, bags, grads);
  const at::Tensor out =
      empty_result({bags.num_lookups()}, at::TensorOptions().dtype(accumulator_type(layout.type)));
  BadIndex bad;
  std::vector<SegmentWork> works;
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const BatchFeature& feature = layout.features[f];
    const BatchTable& table = layout.table_of(feature);
    if (!sources.fill(f, /*want_starts=*/true, bad)) continue;
    const RowDot dots{
        .left = grads.numbers(table),
        .right = rows_of(weights[feature.table]),
        .left_indices = sources.starts(),
        .indices = bags.indices(f),
        .scales = sources.weights(feature),
        .padding_idx = table.padding_idx.expect_int(),
        .positions = layout.is_max(feature) ? grads.positions() : nullptr,
        .position_starts = sources.position_starts(),
        .out = out.mutable_data_ptr(),
        .bad = &bad,
    };
    works.push_back(SegmentDot{dots, bags.segments(f)});
  }
  bags.check(bad, layout);
  run_segments(works);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(myemb, CPU, m) {
  m.impl("embedding_bag_tables_backward", &backward_cpu);
  m.impl("embedding_bag_tables_per_sample_weights_backward", &per_sample_weights_backward_cpu);
}

}  // namespace myemb
