#include <cuda/device.h>
#include <cuda/gradient.h>
#include <cuda/ops.h>
#include <ops/checks.h>
#include <ops/views.h>

#include <ATen/MemoryOverlap.h>

namespace myemb::cuda {
namespace {

at::Tensor& embedding_renorm_(at::Tensor& self, const at::Tensor& indices, double max_norm,
                              double norm_type) {
  check_embedding_renorm(self, indices);
  at::assert_no_internal_overlap(self);
  const Dtype dtype = dtype_of(self);  // refuses complex rows, as ATen does on CUDA
  const DeviceCall call(self, "embedding_renorm_");
  const at::Tensor lookups = kernel_indices(indices);
  const RowGroups groups =
      group_by_row(call, indices_of(lookups), self.size(0), -1, Op::EmbeddingRenorm);
  const RowRenorm args{
      .data = self.mutable_data_ptr(),
      .dtype = dtype,
      .dim = self.size(1),
      .row_stride = self.stride(0),
      .column_stride = self.stride(1),
      .groups = groups.groups,
      .max_norm = max_norm,
      .norm_type = norm_type,
  };
  call.check(launch_row_renorm(args, call.stream()));
  return self;
}

}  // namespace

void register_renorm(torch::Library& m) { m.impl("embedding_renorm_", &embedding_renorm_); }

}  // namespace myemb::cuda
