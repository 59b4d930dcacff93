#include <cuda/backward_bags.h>

namespace myemb::cuda {
namespace {

const void* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

}  // namespace

BackwardBags::BackwardBags(const DeviceCall& call, const BagArguments& arguments,
                           std::optional<int64_t> padding_idx, int64_t num_weights,
                           const at::Tensor& values, int64_t mode)
    : CudaBags(call, arguments, padding_idx, num_weights, values.scalar_type()),
      call_(call),
      dtype_(dtype_of(values)),
      value_bytes_(dtype_ == Dtype::Double ? sizeof(double) : sizeof(float)),
      average_(is_mode(mode, BagMode::Mean)) {
  check_offsets();
}

at::Tensor BackwardBags::divisors(bool inverse) const {
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

const int64_t* BackwardBags::Sources::bags_data() const {
  return static_cast<const int64_t*>(data_or_null(bags));
}

const void* BackwardBags::Sources::weights_data() const { return data_or_null(weights); }

BackwardBags::Sources BackwardBags::sources(Op op) const {
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

BagGradient::BagGradient(const DeviceCall& call, const BagGradientArguments& arguments, Op op)
    : bags_(call, arguments.bags, arguments.padding_idx, arguments.num_weights,
            arguments.grad_output, arguments.mode),
      grad_(arguments.grad_output.contiguous()) {
  // What differs from lookup to lookup is found by its position, which is then what is sorted. Else
  // the bag is all there is to know, and sorted at once.
  const bool by_position = bags_.weights.defined() || arguments.positions;
  if (by_position) {
    sources_ = bags_.sources(op);
  } else {
    shares_ = bags_.divisors(/*inverse=*/true);
  }
  const bool bag_is_position = !bags_.segments.starts && bags_.segments.length == 1;
  groups_ = group_by_row(call, bags_.indices, arguments.num_weights, bags_.padding_idx, op,
                         by_position || bag_is_position ? nullptr : &bags_.segments);
  sum = {
      .rows = rows_of(grad_),
      .groups = groups_.groups,
      .bag_of = sources_.bags_data(),
      .weights = by_position ? sources_.weights_data() : data_or_null(shares_),
      .weights_by_row = !by_position,
      .maxima = {},
      .average = arguments.scale_grad_by_freq,
      .out = nullptr,
      .partials = nullptr,
  };
  if (arguments.positions) mark_maxima(call, arguments.positions->contiguous());
}

void BagGradient::mark_maxima(const DeviceCall& call, const at::Tensor& positions) {
  const int64_t dim = positions.size(1), stride = Maxima::words_for(dim);
  maxima_ = call.scratch(bags_.indices.count * stride * static_cast<int64_t>(sizeof(uint32_t)));
  sum.maxima = {static_cast<uint32_t*>(maxima_.mutable_data_ptr()), stride};
  call.check(launch_zero(sum.maxima.words, maxima_.nbytes(), call.stream()));
  call.check(launch_bag_maxima({.bags = bags_.segments,
                                .positions = positions.const_data_ptr<int64_t>(),
                                .dim = dim,
                                .maxima = sum.maxima},
                               call.stream()));
}

}  // namespace myemb::cuda
