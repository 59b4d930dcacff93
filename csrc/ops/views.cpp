#include <ops/views.h>

#include <c10/util/Exception.h>

namespace myemb {

Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return Dtype::Double;
    case at::kHalf:
      return Dtype::Half;
    case at::kBFloat16:
      return Dtype::BFloat16;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(tensor.scalar_type() == at::kFloat,
                                  "myemb reduces rows of Double, Float, Half and BFloat16, not of ",
                                  c10::toString(tensor.scalar_type()));
      return Dtype::Float;
  }
}

Rows rows_of(const at::Tensor& matrix) {
  return {matrix.const_data_ptr(), dtype_of(matrix), matrix.size(0),
          matrix.size(1),          matrix.stride(0), matrix.size(1) > 1 ? matrix.stride(1) : 1};
}

Indices indices_of(const at::Tensor& kernel_indices) {
  return {kernel_indices.const_data_ptr(), kernel_indices.scalar_type() == at::kLong,
          kernel_indices.numel()};
}

BagViews::BagViews(const BagArguments& arguments, std::optional<int64_t> padding_idx,
                   int64_t num_weights, at::ScalarType values)
    : padding_idx(
          wrap_padding_idx(padding_idx ? std::optional<c10::SymInt>(*padding_idx) : std::nullopt,
                           num_weights)
              .expect_int()),
      indices_(kernel_indices(arguments.indices)) {
  TORCH_CHECK(num_weights >= 0, "embedding_bag: num_weights must not be negative, but is ",
              num_weights);
  indices = indices_of(indices_);
  if (arguments.offsets) {
    offsets_ = contiguous_as(at::kLong, *arguments.offsets);
    const int64_t count = offsets_.numel();
    check_lookups_have_bags(count, indices.count);
    segments = {offsets_.const_data_ptr<int64_t>(), count, 0,
                count - (arguments.include_last_offset ? 1 : 0), indices.count};
  } else {
    segments = {nullptr, 0, arguments.indices.size(1), arguments.indices.size(0), indices.count};
  }
  if (arguments.per_sample_weights) {
    weights = contiguous_as(accumulator_type(values), *arguments.per_sample_weights).view(-1);
  }
}

}  // namespace myemb
