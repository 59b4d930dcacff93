#include <cpu/tensors.h>

#include <c10/util/Exception.h>

#include <cstring>

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

void check_lookups(const BadIndex& bad, const Indices& indices, int64_t num_rows, const char* op) {
  const int64_t position = bad.position();
  if (position == BadIndex::kNone) return;
  const int64_t index =
      visit_indices(indices, [&](const auto* data) -> int64_t { return data[position]; });
  if (std::strncmp(op, "embedding_bag", 13) == 0) {
    TORCH_CHECK(false, "Index ", position, " of input takes value ", index,
                " which is not in the valid range [0, ", num_rows, ") of ", op);
  }
  TORCH_CHECK_INDEX(false, "index out of range in self: index ", index, " at position ", position,
                    " is not in [0, ", num_rows, ")");
}

}  // namespace myemb
