#include <cpu/group.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <ops/checks.h>

#include <ATen/MemoryOverlap.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

namespace myemb {
namespace {

// Complex rows, which the kernels do not know, by ATen.
void renorm_complex(at::Tensor& self, const at::Tensor& rows, double max_norm, double norm_type) {
  const at::Tensor values = self.index_select(0, rows);
  const at::Tensor norms =
      at::linalg_vector_norm(values, norm_type, at::IntArrayRef{1}, /*keepdim=*/true);
  const at::Tensor scales = at::where(norms > max_norm, max_norm / (norms + kRenormEpsilon), 1.0);
  self.index_copy_(0, rows, values * scales);
}

at::Tensor& embedding_renorm_cpu_(at::Tensor& self, const at::Tensor& indices, double max_norm,
                                  double norm_type) {
  check_embedding_renorm(self, indices);
  at::assert_no_internal_overlap(self);
  const at::Tensor lookups = kernel_indices(indices);
  const RowGroups groups =
      group_by_row({indices_of(lookups), self.size(0), -1}, "embedding_renorm_");
  if (groups.count == 0) return self;
  if (self.is_complex()) {
    renorm_complex(self,
                   at::from_blob(const_cast<int64_t*>(groups.rows), {groups.count}, at::kLong),
                   max_norm, norm_type);
    return self;
  }
  const RowRenorm args{
      .data = self.mutable_data_ptr(),
      .dtype = dtype_of(self),
      .dim = self.size(1),
      .row_stride = self.stride(0),
      .column_stride = self.stride(1),
      .rows = groups.rows,
      .count = groups.count,
      .max_norm = max_norm,
      .norm_type = norm_type,
  };
  parallel_ranges(groups.count, groups.count * args.dim,
                  [&](int64_t begin, int64_t end) { kernels().row_renorm(args, begin, end); });
  return self;
}

}  // namespace

TORCH_LIBRARY_IMPL(myemb, CPU, m) { m.impl("embedding_renorm_", &embedding_renorm_cpu_); }

}  // namespace myemb
