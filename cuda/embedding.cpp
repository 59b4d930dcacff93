#include <cuda/device.h>
#include <cuda/gradient.h>
#include <cuda/ops.h>
#include <ops/checks.h>
#include <ops/views.h>

namespace myemb::cuda {
namespace {

at::Tensor embedding(const at::Tensor& weight, const at::Tensor& indices, int64_t /*padding_idx*/,
                     bool /*scale_grad_by_freq*/, bool /*sparse*/) {
  check_embedding(weight, indices);
  const DeviceCall call(weight, "embedding");
  const at::Tensor lookups = kernel_indices(indices);
  at::DimVector shape(indices.sizes().begin(), indices.sizes().end());
  shape.push_back(weight.size(1));
  const at::Tensor out = call.output(shape, weight.options());
  const Lookup args{
      .rows = weight.const_data_ptr(),
      .num_rows = weight.size(0),
      .dim = weight.size(1),
      .element_size = static_cast<int64_t>(weight.element_size()),
      .row_stride = weight.stride(0),
      .column_stride = weight.size(1) > 1 ? weight.stride(1) : 1,
      .indices = indices_of(lookups),
      .out = out.mutable_data_ptr(),
  };
  call.check(launch_lookup(args, call.stream()));
  return out;
}

at::Tensor embedding_dense_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                                    int64_t num_weights, int64_t padding_idx,
                                    bool scale_grad_by_freq) {
  check_embedding_dense_backward(grad_output, indices);
  const DeviceCall call(grad_output, "embedding_dense_backward");
  const at::Tensor lookups = kernel_indices(indices);
  const at::Tensor grad = grad_output.contiguous().view({lookups.numel(), grad_output.size(-1)});
  const RowGroups groups =
      group_by_row(call, indices_of(lookups), num_weights, padding_idx, Op::EmbeddingDenseBackward);
  const GradientSum sum{
      .rows = rows_of(grad),
      .groups = groups.groups,
      .bag_of = nullptr,
      .weights = nullptr,
      .weights_by_row = false,
      .maxima = {},
      .average = scale_grad_by_freq,
      .out = nullptr,
      .partials = nullptr,
  };
  return dense_gradient(call, sum, grad.options());
}

}  // namespace

void register_embedding(torch::Library& m) {
  m.impl("embedding", &embedding);
  m.impl("embedding_dense_backward", &embedding_dense_backward);
}

}  // namespace myemb::cuda
