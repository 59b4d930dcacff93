#include <cuda/device.h>
#include <cuda/gradient.h>
#include <cuda/ops.h>
#include <ops/checks.h>
#include <ops/views.h>

#include <ATen/ops/_sparse_coo_tensor_unsafe.h>

namespace myemb::cuda {
namespace {

// The distinct rows of lookups, and for each lookup in their order the place of its row among them.
struct NumberedRows {
  RowGroups groups;  // whose rows are these places
  at::Tensor ranks;
  at::Tensor rows;      // distinct of them
  at::Tensor distinct;  // (1)
};

NumberedRows number_rows(const DeviceCall& call, const at::Tensor& lookups, int64_t num_rows) {
  NumberedRows found{
      group_by_row(call, indices_of(lookups), num_rows, -1, Op::Coalesce), {}, {}, {}};
  Groups& groups = found.groups.groups;
  const int64_t element = groups.wide ? sizeof(uint64_t) : sizeof(uint32_t);
  found.ranks = call.scratch(groups.count * element);
  found.rows = call.scratch(groups.count * static_cast<int64_t>(sizeof(int64_t))).view(at::kLong);
  found.distinct = call.output({1}, found.rows.options());
  const at::Tensor scratch = call.scratch(static_cast<int64_t>(number_rows_bytes(groups)));
  call.check(launch_number_rows({.groups = groups,
                                 .ranks = found.ranks.mutable_data_ptr(),
                                 .rows = found.rows.mutable_data_ptr<int64_t>(),
                                 .distinct = found.distinct.mutable_data_ptr<int64_t>(),
                                 .scratch = scratch.mutable_data_ptr()},
                                call.stream()));
  groups.rows = found.ranks.const_data_ptr();
  return found;
}

at::Tensor add_up(const DeviceCall& call, const at::Tensor& values, const Groups& groups) {
  const at::Tensor sums = call.output({groups.num_rows, values.size(1)}, values.options());
  GradientSum sum{
      .rows = rows_of(values),
      .groups = groups,
      .bag_of = nullptr,
      .weights = nullptr,
      .weights_by_row = false,
      .maxima = {},
      .average = false,
      .out = sums.mutable_data_ptr(),
      .partials = nullptr,
  };
  const at::Tensor partials = partials_of(call, sum);
  sum.partials = partials.mutable_data_ptr();
  call.check(launch_gradient_sum(sum, call.stream()));
  return sums;
}

// Waits for the number of rows, as PyTorch's does: it is the size of the result.
at::Tensor coalesce(const at::Tensor& self) {
  if (self.is_coalesced() || !is_sparse_rows(self) || self._nnz() == 0) return self.coalesce();
  const at::Tensor lookups = self._indices().select(0, 0).contiguous();
  const at::Tensor values = self._values().contiguous();
  NumberedRows found = number_rows(DeviceCall(values, "coalesce"), lookups, self.size(0));
  const int64_t distinct = found.distinct.item<int64_t>();
  found.groups.groups.num_rows = distinct;
  const at::Tensor sums = add_up(DeviceCall(values, "coalesce"), values, found.groups.groups);
  return at::_sparse_coo_tensor_unsafe(found.rows.narrow(0, 0, distinct).unsqueeze(0), sums,
                                       self.sizes(), self.options(), /*is_coalesced=*/true);
}

}  // namespace

void register_coalesce(torch::Library& m) { m.impl("coalesce", &coalesce); }

}  // namespace myemb::cuda
