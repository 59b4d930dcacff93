#include <cuda/backward_bags.h>
#include <cuda/gradient.h>
#include <cuda/ops.h>

namespace myemb::cuda {
namespace {

using OptionalIndex = std::optional<int64_t>;

at::Tensor dense_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                          const OptionalTensor& offsets, const OptionalTensor& positions,
                          int64_t num_weights, bool scale_grad_by_freq, int64_t mode,
                          const OptionalTensor& per_sample_weights, bool include_last_offset,
                          OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_bag_gradient(grad_output, positions, arguments, mode);
  const DeviceCall call(grad_output, "embedding_bag_dense_backward");
  const BagGradient gradient(
      call, {grad_output, arguments, positions, num_weights, scale_grad_by_freq, mode, padding_idx},
      Op::EmbeddingBagDenseBackward);
  return dense_gradient(call, gradient.sum, grad_output.options());
}

at::Tensor sparse_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                           const OptionalTensor& offsets, int64_t num_weights,
                           bool scale_grad_by_freq, int64_t mode,
                           const OptionalTensor& per_sample_weights, bool include_last_offset,
                           OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_bag_gradient(grad_output, std::nullopt, arguments, mode);
  const DeviceCall call(grad_output, "embedding_bag_sparse_backward");
  const BackwardBags bags(call, arguments, padding_idx, num_weights, grad_output, mode);
  BackwardBags::Sources sources = bags.sources(Op::EmbeddingBagSparseBackward);
  if (scale_grad_by_freq) {
    const RowGroups groups = group_by_row(call, bags.indices, num_weights, bags.padding_idx,
                                          Op::EmbeddingBagSparseBackward);
    const void* weights = sources.weights_data();
    if (!weights) sources.weights = bags.values(bags.indices.count);
    call.check(launch_frequency_weights({.groups = groups.groups,
                                         .dtype = bags.dtype(),
                                         .weights_in = weights,
                                         .weights = sources.weights.mutable_data_ptr()},
                                        call.stream()));
  }
  const at::Tensor grad = grad_output.contiguous();
  const at::Tensor values =
      call.output({bags.indices.count, grad_output.size(1)}, grad_output.options());
  call.check(launch_weighted_rows({.rows = rows_of(grad),
                                   .sources = sources.bags_data(),
                                   .weights = sources.weights_data(),
                                   .count = bags.indices.count,
                                   .out = values.mutable_data_ptr()},
                                  call.stream()));
  return values;
}

at::Tensor per_sample_weights_backward(const at::Tensor& grad_output, const at::Tensor& weight,
                                       const at::Tensor& indices, const OptionalTensor& offsets,
                                       const OptionalTensor& positions, int64_t mode,
                                       bool include_last_offset, OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, std::nullopt, include_last_offset};
  check_bag_gradient(grad_output, positions, arguments, mode);
  check_weight_of_gradient(grad_output, weight);
  const DeviceCall call(weight, "embedding_bag_per_sample_weights_backward");
  const BackwardBags bags(call, arguments, padding_idx, weight.size(0), weight, mode);
  const BackwardBags::Sources sources = bags.sources(Op::EmbeddingBagPerSampleWeightsBackward);
  const at::Tensor grad = grad_output.contiguous();
  const at::Tensor argmax = positions ? positions->contiguous() : at::Tensor();
  const at::Tensor out =
      call.output(indices.sizes(), weight.options().dtype(accumulator_type(weight.scalar_type())));
  call.check(launch_row_dot({.left = rows_of(grad),
                             .right = rows_of(weight),
                             .left_of = sources.bags_data(),
                             .indices = bags.indices,
                             .scales = sources.weights_data(),
                             .positions = positions ? argmax.const_data_ptr<int64_t>() : nullptr,
                             .out = out.mutable_data_ptr()},
                            call.stream()));
  return out;
}

}  // namespace

void register_embedding_bag_backward(torch::Library& m) {
  m.impl("embedding_bag_dense_backward", &dense_backward);
  m.impl("embedding_bag_sparse_backward", &sparse_backward);
  m.impl("embedding_bag_per_sample_weights_backward", &per_sample_weights_backward);
}

}  // namespace myemb::cuda
