#include <cuda/bags.h>
#include <cuda/gradient.h>
#include <cuda/ops.h>

namespace myemb::cuda {
namespace {

using OptionalIndex = std::optional<int64_t>;

// The lookups of a backward op, and what it derives from them in memory of the call.
class BackwardBags : public CudaBags {
 public:
  BackwardBags(const DeviceCall& call, const BagArguments& arguments, OptionalIndex padding_idx,
               int64_t num_weights, const at::Tensor& values, int64_t mode)
      : CudaBags(call, arguments, padding_idx, num_weights, values.scalar_type()),
        call_(call),
        dtype_(dtype_of(values)),
        value_bytes_(dtype_ == Dtype::Double ? sizeof(double) : sizeof(float)),
        average_(is_mode(mode, BagMode::Mean)) {
    check_offsets();
  }

  // Accumulator type, one for each bag: how many lookups it counts, or the reciprocal. Undefined
  // unless mode is mean.
  at::Tensor divisors(bool inverse) const {
    if (!average_) return {};
    const at::Tensor result = values(segments.count);
    const at::Tensor windows = call_.scratch((indices.count / kChunk + 1) * sizeof(int32_t));
    call_.check(
        launch_bag_divisors({.lookups = lookups,
                             .dtype = dtype_,
                             .inverse = inverse,
                             .divisors = result.mutable_data_ptr(),
                             .window_counts = static_cast<int32_t*>(windows.mutable_data_ptr())},
                            call_.stream()));
    return result;
  }

  // For each lookup its bag (int64), -1 for padding, and its weight with mean's division taken in
  // (accumulator type), undefined if all weights are 1.
  struct Sources {
    at::Tensor bags;
    at::Tensor weights;

    const int64_t* bags_data() const { return static_cast<int64_t*>(bags.mutable_data_ptr()); }
    const void* weights_data() const { return data_or_null(weights); }
  };

  Sources sources(Op op) const {
    const at::Tensor divisors = this->divisors(/*inverse=*/false);
    Sources result{call_.scratch(indices.count * sizeof(int64_t)), {}};
    if (weights.defined() || average_) result.weights = values(indices.count);
    call_.check(launch_lookup_sources(
        {.lookups = lookups,
         .dtype = dtype_,
         .divisors = data_or_null(divisors),
         .bag_of = static_cast<int64_t*>(result.bags.mutable_data_ptr()),
         .weight_of = result.weights.defined() ? result.weights.mutable_data_ptr() : nullptr,
         .op = op},
        call_.stream()));
    return result;
  }

  // Memory for `count` values of the accumulator type.
  at::Tensor values(int64_t count) const { return call_.scratch(count * value_bytes_); }

  Dtype dtype() const { return dtype_; }

  static const void* data_or_null(const at::Tensor& tensor) {
    return tensor.defined() ? tensor.const_data_ptr() : nullptr;
  }

 private:
  const DeviceCall& call_;
  Dtype dtype_;
  int64_t value_bytes_;
  bool average_;
};

at::Tensor dense_backward(const at::Tensor& grad_output, const at::Tensor& indices,
                          const OptionalTensor& offsets, const OptionalTensor& positions,
                          int64_t num_weights, bool scale_grad_by_freq, int64_t mode,
                          const OptionalTensor& per_sample_weights, bool include_last_offset,
                          OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_bag_gradient(grad_output, positions, arguments, mode);
  const DeviceCall call(grad_output, "embedding_bag_dense_backward");
  const BackwardBags bags(call, arguments, padding_idx, num_weights, grad_output, mode);
  const at::Tensor grad = grad_output.contiguous();
  const at::Tensor argmax = positions ? positions->contiguous() : at::Tensor();

  // What differs from lookup to lookup is found by its position, which is then what is sorted. Else
  // the bag is all there is to know, and sorted at once.
  const bool by_position = bags.weights.defined() || positions;
  const BackwardBags::Sources sources =
      by_position ? bags.sources(Op::EmbeddingBagDenseBackward) : BackwardBags::Sources{};
  const at::Tensor shares = by_position ? at::Tensor() : bags.divisors(/*inverse=*/true);
  const RowGroups groups =
      group_by_row(call, bags.indices, num_weights, bags.padding_idx, Op::EmbeddingBagDenseBackward,
                   by_position ? nullptr : &bags.segments);
  const GradientSum sum{
      .rows = rows_of(grad),
      .groups = groups.groups,
      .bag_of = by_position ? sources.bags_data() : nullptr,
      .weights = by_position ? sources.weights_data() : BackwardBags::data_or_null(shares),
      .weights_by_row = !by_position,
      .positions = positions ? argmax.const_data_ptr<int64_t>() : nullptr,
      .average = scale_grad_by_freq,
      .out = nullptr,
      .partials = nullptr,
  };
  return dense_gradient(call, sum, grad.options());
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
