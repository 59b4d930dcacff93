#include <cpu/gradient.h>
#include <cpu/large_blocks.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <ops/checks.h>

#include <torch/library.h>

namespace myemb {
namespace {

at::Tensor embedding_cpu(const at::Tensor& weight, const at::Tensor& indices,
                         int64_t /*padding_idx*/, bool /*scale_grad_by_freq*/, bool /*sparse*/) {
  check_embedding(weight, indices);
  const at::Tensor lookups = kernel_indices(indices);
  at::DimVector shape(indices.sizes().begin(), indices.sizes().end());
  shape.push_back(weight.size(1));
  const at::Tensor out = empty_result(shape, weight.options());
  BadIndex bad;
  const Lookup args{
      .table = weight.const_data_ptr(),
      .num_rows = weight.size(0),
      .dim = weight.size(1),
      .element_size = static_cast<int64_t>(weight.element_size()),
      .row_stride = weight.stride(0),
      .column_stride = weight.size(1) > 1 ? weight.stride(1) : 1,
      .indices = indices_of(lookups),
      .out = out.mutable_data_ptr(),
      .bad = &bad,
  };
  parallel_ranges(args.indices.count, args.indices.count * args.dim,
                  [&](int64_t begin, int64_t end) { kernels().lookup(args, begin, end); });
  check_lookups(bad, args.indices, args.num_rows, "embedding");
  return out;
}

at::Tensor embedding_dense_backward_cpu(const at::Tensor& grad_output, const at::Tensor& indices,
                                        int64_t num_weights, int64_t padding_idx,
                                        bool scale_grad_by_freq) {
  check_embedding_dense_backward(grad_output, indices);
  const at::Tensor lookups = kernel_indices(indices);
  const at::Tensor grad = grad_output.contiguous().view({lookups.numel(), grad_output.size(-1)});
  return dense_gradient({.grad_output = grad}, indices_of(lookups), num_weights, padding_idx,
                        scale_grad_by_freq, "embedding_dense_backward");
}

}  // namespace

TORCH_LIBRARY_IMPL(myemb, CPU, m) {
  m.impl("embedding", &embedding_cpu);
  m.impl("embedding_dense_backward", &embedding_dense_backward_cpu);
}

}  // namespace myemb
