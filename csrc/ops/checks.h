#pragma once

// The checks of arguments that every backend and the meta kernels share. They look at shapes,
// dtypes and devices and never at values, so they hold for fake tensors and symbolic sizes.
//
// The texts are those of torch.nn.functional and ATen, so that a program that matches on them keeps
// working.

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <optional>

namespace myemb {

using OptionalTensor = std::optional<at::Tensor>;

// The lookups of an embedding_bag call as its schema has them; what every op of the family takes.
struct BagArguments {
  const at::Tensor& indices;
  const OptionalTensor& offsets;
  const OptionalTensor& per_sample_weights;
  bool include_last_offset;

  c10::SymInt num_bags() const;
};

// uint8, int16, int32 or int64. `position` is that of the argument.
void check_index_type(const at::Tensor& indices, const char* name, int position, const char* op);

// fp64, fp32, fp16 or bf16.
void check_floating(const at::Tensor& values, const char* name, const char* op);

void check_same_device(const at::Tensor& first, const at::Tensor& second, const char* op);

// That of the table, `values`, or fp32 beside one of 16 bits.
void check_per_sample_weights_type(const at::Tensor& weights, const at::Tensor& values);

// A plain lookup: a 2-D table of any dtype and integer indices of any shape.
void check_embedding(const at::Tensor& weight, const at::Tensor& indices);

void check_embedding_dense_backward(const at::Tensor& grad_output, const at::Tensor& indices);

void check_embedding_renorm(const at::Tensor& self, const at::Tensor& indices);

// All arguments of embedding_bag but padding_idx, in the order in which PyTorch checks them. mode
// is a BagMode as integer.
void check_embedding_bag_arguments(const at::Tensor& weight, const BagArguments& bags, int64_t mode,
                                   bool scale_grad_by_freq, bool sparse);

// The options that embedding_bag_max, which mode max goes through, has no arguments for.
void check_max_options(bool scale_grad_by_freq, bool sparse);

// The lookups, grad_output (B, D), and positions (B, D) exactly in mode max.
void check_bag_gradient(const at::Tensor& grad_output, const OptionalTensor& positions,
                        const BagArguments& bags, int64_t mode);

// Offsets alone, with any number of batch dimensions in front.
void check_offsets_arguments(const at::Tensor& offsets);

// Throws if there are lookups but no offsets.
void check_lookups_have_bags(int64_t num_offsets, int64_t num_lookups);

// A table (V, D) whose D and dtype are those of the gradient.
void check_weight_of_gradient(const at::Tensor& grad_output, const at::Tensor& weight);

// Whether a sparse tensor is like the gradient of a table: rows of floating-point numbers.
bool is_sparse_rows(const at::Tensor& sparse);

// padding_idx of embedding_bag as a row of the table, or -1 for none. Throws unless in [-V, V).
c10::SymInt wrap_padding_idx(const std::optional<c10::SymInt>& padding_idx,
                             const c10::SymInt& num_weights);

}  // namespace myemb
