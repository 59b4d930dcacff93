#include <cpu/update.h>

#include <cpu/bags.h>
#include <cpu/gradient.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <ops/types.h>
#include <policies/optimizers.h>

#include <torch/library.h>

namespace myemb {
namespace {

constexpr auto kOp = "embedding_update_";

// Every row, by its row of the gradient.
void update_all_rows(RowUpdate update, const at::Tensor& grads) {
  update.grads = grads.const_data_ptr();
  parallel_ranges(grads.size(0), grads.numel(),
                  [&](int64_t begin, int64_t end) { kernels().row_update(update, begin, end); });
}

void update_by_groups(RowUpdate update, const GroupedGradient& gradient) {
  update.rows = gradient.groups.rows;
  run_segment_update(gradient.sums, update);
}

void update_sparse(const RowUpdate& update, const at::Tensor& grad) {
  const at::Tensor lookups = grad._indices().select(0, 0).contiguous();
  const at::Tensor values = grad._values().contiguous();
  const GroupedGradient gradient({.grad_output = values}, indices_of(lookups), grad.size(0), -1,
                                 /*average=*/false, kOp);
  update_by_groups(update, gradient);
}

void update_by_lookups(const RowUpdate& update, const TableUpdate& call) {
  const UpdateLookups& lookups = call.lookups;
  const BagArguments arguments{*lookups.indices, lookups.offsets, lookups.per_sample_weights,
                               lookups.include_last_offset};
  const at::ScalarType type = call.grad.scalar_type();
  const int64_t num_weights = call.weight.size(0);
  const auto padding_idx = lookups.padding_idx
                               ? std::optional<int64_t>(lookups.padding_idx->expect_int())
                               : std::nullopt;
  const CpuBags bags(arguments, padding_idx, num_weights, type);
  const bool average = is_mode(lookups.mode, BagMode::Mean);
  const at::Tensor argmax = lookups.positions ? lookups.positions->contiguous() : at::Tensor();
  // Bags of one without anything else are plain lookups.
  const bool plain = !bags.segments.starts && bags.segments.length == 1 && !argmax.defined() &&
                     !bags.weights.defined();
  const LookupSources sources =
      plain ? LookupSources{} : lookup_sources(bags, average, accumulator_type(type));
  const at::Tensor grad = call.grad.contiguous();
  const GroupedGradient gradient(
      {
          .grad_output = grad,
          .bags = sources.bags.get(),
          .segments = bags.segments,
          .weights = sources.weights,
          .positions = argmax.defined() ? argmax.const_data_ptr<int64_t>() : nullptr,
      },
      bags.indices, num_weights, bags.padding_idx, lookups.scale_grad_by_freq, kOp);
  update_by_groups(update, gradient);
}

void update_cpu(const TableUpdate& call) {
  check_update(call);
  const ContiguousUpdate tables(call);
  const RowUpdate update = row_update_of(tables, call.options);
  if (call.lookups.indices) {
    update_by_lookups(update, call);
  } else if (call.grad.is_sparse()) {
    update_sparse(update, call.grad);
  } else {
    update_all_rows(update, call.grad.contiguous());
  }
  tables.copy_back();
}

}  // namespace

RowUpdate row_update_of(const ContiguousUpdate& tables, const UpdateOptions& options) {
  RowUpdate update{
      .weight = tables.weight.mutable_data_ptr(),
      .dtype = dtype_of(tables.weight),
      .dim = tables.weight.size(1),
      .row_state = nullptr,
      .states = {},
      .low_halves = nullptr,
      .options = options,
      .grads = nullptr,
      .exact = false,
      .rows = nullptr,
      .rows_end = 0,
  };
  auto state = tables.state.begin();
  if (options.rule == UpdateRule::RowWiseAdagrad) update.row_state = (state++)->mutable_data_ptr();
  for (int s = 0; s < count_states(options); ++s) update.states[s] = (state++)->mutable_data_ptr();
  if (options.rounding == Rounding::Split) update.low_halves = state->mutable_data_ptr<int16_t>();
  return update;
}

TORCH_LIBRARY_IMPL(myemb, CPU, m) {
  m.impl("embedding_update_", &embedding_update_kernel<update_cpu>);
}

TORCH_LIBRARY_IMPL(myemb, SparseCPU, m) {
  m.impl("embedding_update_", &embedding_update_kernel<update_cpu>);
}

}  // namespace myemb
