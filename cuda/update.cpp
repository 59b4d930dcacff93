#include <cuda/backward_bags.h>
#include <cuda/ops.h>
#include <cuda/update.h>
#include <ops/update.h>
#include <policies/optimizers.h>

namespace myemb::cuda {
namespace {

constexpr auto kOp = "embedding_update_";

void update_rows(const DeviceCall& call, RowsUpdate update) {
  const at::Tensor partials = partials_of(call, update.sum);
  update.sum.partials = partials.mutable_data_ptr();
  call.check(launch_rows_update(update, call.stream()));
}

void update_sparse(const DeviceCall& call, const TableState& table, const TableUpdate& update) {
  const at::Tensor lookups = update.grad._indices().select(0, 0).contiguous();
  const at::Tensor values = update.grad._values().contiguous();
  const RowGroups groups =
      group_by_row(call, indices_of(lookups), table.num_rows, -1, Op::EmbeddingUpdate);
  const GradientSum sum{
      .rows = rows_of(values),
      .groups = groups.groups,
      .bag_of = nullptr,
      .weights = nullptr,
      .weights_by_row = false,
      .maxima = {},
      .average = false,
      .out = nullptr,
      .partials = nullptr,
  };
  update_rows(call, {table, sum, update.options});
}

void update_by_lookups(const DeviceCall& call, const TableState& table, const TableUpdate& update) {
  const UpdateLookups& lookups = update.lookups;
  const BagArguments arguments{*lookups.indices, lookups.offsets, lookups.per_sample_weights,
                               lookups.include_last_offset};
  const auto padding_idx = lookups.padding_idx
                               ? std::optional<int64_t>(lookups.padding_idx->expect_int())
                               : std::nullopt;
  const BagGradient gradient(call,
                             {update.grad, arguments, lookups.positions, table.num_rows,
                              lookups.scale_grad_by_freq, lookups.mode, padding_idx},
                             Op::EmbeddingUpdate);
  update_rows(call, {table, gradient.sum, update.options});
}

void update_every_row(const DeviceCall& call, const TableState& table, const TableUpdate& update) {
  const at::Tensor grad = update.grad.contiguous();
  call.check(launch_dense_update({table, rows_of(grad), update.options}, call.stream()));
}

void update_cuda(const TableUpdate& update) {
  check_update(update);
  const DeviceCall call(update.weight, kOp);
  const ContiguousUpdate tables(update);
  const TableState table = table_state(tables, update.options);
  if (update.lookups.indices) {
    update_by_lookups(call, table, update);
  } else if (update.grad.is_sparse()) {
    update_sparse(call, table, update);
  } else {
    update_every_row(call, table, update);
  }
  tables.copy_back();
}

}  // namespace

TableState table_state(const ContiguousUpdate& tables, const UpdateOptions& options) {
  TableState table{
      .weight = tables.weight.mutable_data_ptr(),
      .dtype = dtype_of(tables.weight),
      .num_rows = tables.weight.size(0),
      .dim = tables.weight.size(1),
      .row_state = nullptr,
      .states = {},
      .low_halves = nullptr,
  };
  auto state = tables.state.begin();
  if (options.rule == UpdateRule::RowWiseAdagrad) table.row_state = (state++)->mutable_data_ptr();
  for (int s = 0; s < count_states(options); ++s) table.states[s] = (state++)->mutable_data_ptr();
  if (options.rounding == Rounding::Split) table.low_halves = state->mutable_data_ptr<int16_t>();
  return table;
}

void register_update(torch::Library& m) {
  m.impl("embedding_update_", &embedding_update_kernel<update_cuda>);
}

}  // namespace myemb::cuda
