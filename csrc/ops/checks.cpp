#include <ops/checks.h>

#include <ops/types.h>

#include <ATen/TensorUtils.h>
#include <c10/util/Exception.h>

#include <sstream>

namespace myemb {
namespace {

std::string size_text(const at::Tensor& tensor) {  // as Python prints torch.Size
  std::ostringstream text;
  text << "torch.Size(" << tensor.sym_sizes() << ")";
  return text.str();
}

bool is_index_type(at::ScalarType type) {
  return type == at::kLong || type == at::kInt || type == at::kShort || type == at::kByte;
}

void check_offsets_shape(const BagArguments& bags) {
  const at::Tensor& indices = bags.indices;
  if (indices.dim() == 2) {
    TORCH_CHECK_VALUE(
        !bags.offsets,
        "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of "
        "fixed length sequences. However, found offsets of type <class 'torch.Tensor'>");
    return;
  }
  TORCH_CHECK_VALUE(indices.dim() == 1,
                    "input has to be 1D or 2D Tensor, but got Tensor of dimension ", indices.dim());
  TORCH_CHECK_VALUE(bags.offsets, "offsets has to be a 1D Tensor but got None");
  TORCH_CHECK_VALUE(bags.offsets->dim() == 1, "offsets has to be a 1D Tensor");
}

}  // namespace

// ATen's check takes only the two types it knows, and has the text; ours takes two more.
void check_index_type(const at::Tensor& indices, const char* name, int position, const char* op) {
  if (is_index_type(indices.scalar_type())) return;
  at::checkScalarTypes(op, at::TensorArg(indices, name, position), {at::kLong, at::kInt});
}

void check_floating(const at::Tensor& values, const char* name, const char* op) {
  at::checkScalarTypes(op, at::TensorArg(values, name, 1),
                       {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble});
}

void check_same_device(const at::Tensor& first, const at::Tensor& second, const char* op) {
  TORCH_CHECK(first.device() == second.device(), op,
              ": Expected all tensors to be on the same device, but found at least two devices, ",
              first.device(), " and ", second.device(), "!");
}

void check_per_sample_weights_type(const at::Tensor& weights, const at::Tensor& values) {
  if (is_16_bit(values) && weights.scalar_type() == at::kFloat) return;
  at::checkSameType("embedding_bag", at::TensorArg(values, "weight", 1),
                    at::TensorArg(weights, "per_sample_weights", 1));
}

c10::SymInt BagArguments::num_bags() const {
  if (!offsets) return indices.sym_size(0);
  return offsets->sym_size(0) - (include_last_offset ? 1 : 0);
}

void check_embedding(const at::Tensor& weight, const at::Tensor& indices) {
  TORCH_CHECK(weight.dim() == 2, "'weight' must be 2-D");
  check_index_type(indices, "indices", 1, "embedding");
  check_same_device(weight, indices, "embedding");
}

void check_embedding_dense_backward(const at::Tensor& grad_output, const at::Tensor& indices) {
  check_floating(grad_output, "grad_output", "embedding_dense_backward");
  check_index_type(indices, "indices", 2, "embedding_dense_backward");
  check_same_device(grad_output, indices, "embedding_dense_backward");
  const auto lookups = indices.sym_sizes();
  TORCH_CHECK(grad_output.dim() == indices.dim() + 1 &&
                  grad_output.sym_sizes().slice(0, lookups.size()) == lookups,
              "embedding_dense_backward: grad_output must have the shape of indices ", lookups,
              " and one dimension more, but has shape ", grad_output.sym_sizes());
}

void check_embedding_renorm(const at::Tensor& self, const at::Tensor& indices) {
  at::checkDim("embedding_renorm_", at::TensorArg(self, "self", 1), 2);
  check_index_type(indices, "indices", 2, "embedding_renorm_");
  TORCH_CHECK(self.is_floating_point() || self.is_complex(),
              "norm(): input dtype should be either floating point or complex. Got ",
              c10::toString(self.scalar_type()), " instead.");
  check_same_device(self, indices, "embedding_renorm_");
}

namespace {

void check_weights_shape(const BagArguments& bags) {
  if (!bags.per_sample_weights) return;
  const at::Tensor& weights = *bags.per_sample_weights;
  TORCH_CHECK_VALUE(weights.sym_sizes() == bags.indices.sym_sizes(),
                    "embedding_bag: If per_sample_weights (", size_text(weights),
                    ") is not None, then it must have the same shape as the input (",
                    size_text(bags.indices), ")");
}

void check_bag_types(const BagArguments& bags, const at::Tensor& values, const char* values_name) {
  check_index_type(bags.indices, "indices", 1, "embedding_bag");
  if (bags.offsets) {
    check_index_type(*bags.offsets, "offsets", 1, "embedding_bag");
    TORCH_CHECK(!bags.include_last_offset || bags.offsets->sym_size(0) >= 1,
                "include_last_offset: number of offset should be at least 1");
  }
  check_floating(values, values_name, "embedding_bag");
  check_same_device(values, bags.indices, "embedding_bag");
  if (bags.offsets) check_same_device(values, *bags.offsets, "embedding_bag");
  if (bags.per_sample_weights) {
    check_per_sample_weights_type(*bags.per_sample_weights, values);
    check_same_device(values, *bags.per_sample_weights, "embedding_bag");
  }
}

void check_mode(int64_t mode) {
  TORCH_CHECK_VALUE(mode >= 0 && mode <= 2,
                    "mode has to be one of sum, mean or max, that is 0, 1 or 2, but got ", mode);
}

}  // namespace

void check_max_options(bool scale_grad_by_freq, bool sparse) {
  TORCH_CHECK_VALUE(!scale_grad_by_freq,
                    "max mode does not support scaling the gradient by the frequency");
  TORCH_CHECK_VALUE(!sparse, "max mode does not support sparse weights");
}

void check_embedding_bag_arguments(const at::Tensor& weight, const BagArguments& bags, int64_t mode,
                                   bool scale_grad_by_freq, bool sparse) {
  check_weights_shape(bags);
  TORCH_CHECK_VALUE(weight.dim() == 2, "weight has to be a 2D Tensor, but got Tensor of dimension ",
                    weight.dim());
  check_offsets_shape(bags);
  check_mode(mode);
  if (is_mode(mode, BagMode::Max)) check_max_options(scale_grad_by_freq, sparse);
  check_bag_types(bags, weight, "weight");
}

void check_bag_gradient(const at::Tensor& grad_output, const OptionalTensor& positions,
                        const BagArguments& bags, int64_t mode) {
  check_weights_shape(bags);
  check_offsets_shape(bags);
  check_mode(mode);
  check_bag_types(bags, grad_output, "grad_output");
  const c10::SymInt num_bags = bags.num_bags();
  TORCH_CHECK(grad_output.dim() == 2 && grad_output.sym_size(0) == num_bags,
              "embedding_bag: grad_output must have shape (", num_bags, ", D), but has shape ",
              grad_output.sym_sizes());
  TORCH_CHECK(positions.has_value() == is_mode(mode, BagMode::Max),
              "embedding_bag: positions must be given in mode max, and in no other");
  TORCH_CHECK(!positions || (positions->scalar_type() == at::kLong &&
                             positions->sym_sizes() == grad_output.sym_sizes()),
              "embedding_bag: positions must be int64 of the shape of grad_output ",
              grad_output.sym_sizes());
  if (positions) check_same_device(grad_output, *positions, "embedding_bag");
}

void check_offsets_arguments(const at::Tensor& offsets) {
  TORCH_CHECK_VALUE(offsets.dim() >= 1, "offsets has to be a 1D Tensor");
  check_index_type(offsets, "offsets", 1, "embedding_bag");
}

void check_lookups_have_bags(int64_t num_offsets, int64_t num_lookups) {
  TORCH_CHECK(num_offsets > 0 || num_lookups == 0,
              "embedding_bag: offsets is empty, so none of the ", num_lookups,
              " indices belongs to a bag");
}

void check_weight_of_gradient(const at::Tensor& grad_output, const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 2 && weight.sym_size(1) == grad_output.sym_size(1) &&
                  weight.scalar_type() == grad_output.scalar_type(),
              "embedding_bag: weight must be (V, ", grad_output.sym_size(1), ") of ",
              grad_output.scalar_type(), " like grad_output, but is ", weight.sym_sizes(), " of ",
              weight.scalar_type());
  check_same_device(grad_output, weight, "embedding_bag");
}

bool is_sparse_rows(const at::Tensor& sparse) {
  return sparse.sparse_dim() == 1 && sparse.dense_dim() == 1 &&
         at::isFloatingType(sparse.scalar_type());
}

c10::SymInt wrap_padding_idx(const std::optional<c10::SymInt>& padding_idx,
                             const c10::SymInt& num_weights) {
  if (!padding_idx) return -1;
  TORCH_CHECK(*padding_idx >= -num_weights && *padding_idx < num_weights,
              "padding_idx must be within the number of embeddings, ", -num_weights, " through ",
              num_weights - 1, ", but got ", *padding_idx);
  return *padding_idx < 0 ? *padding_idx + num_weights : *padding_idx;
}

}  // namespace myemb
