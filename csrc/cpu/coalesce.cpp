#include <cpu/group.h>
#include <cpu/large_blocks.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <ops/checks.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

namespace myemb {
namespace {

at::Tensor coalesce_cpu(const at::Tensor& self) {
  if (self.is_coalesced() || !is_sparse_rows(self)) return self.coalesce();
  const at::Tensor lookups = self._indices().select(0, 0).contiguous();
  const at::Tensor values = self._values().contiguous();
  const RowGroups groups = group_by_row({indices_of(lookups), self.size(0), -1}, "coalesce");
  const at::Tensor rows = at::empty({1, groups.count}, lookups.options());
  std::copy_n(groups.rows, groups.count, rows.mutable_data_ptr<int64_t>());
  const at::Tensor sums = empty_result({groups.count, values.size(1)}, values.options());
  BadIndex bad;
  run_segment_sum({
      .rows = rows_of(values),
      .indices = {groups.sources, /*is_int64=*/true, groups.lookups},
      .segments = groups.segments(),
      .out = sums.mutable_data_ptr(),
      .bad = &bad,
  });
  return at::_sparse_coo_tensor_unsafe(rows, sums, self.sizes(), self.options(),
                                       /*is_coalesced=*/true);
}

}  // namespace

TORCH_LIBRARY_IMPL(myemb, SparseCPU, m) { m.impl("coalesce", &coalesce_cpu); }

}  // namespace myemb
