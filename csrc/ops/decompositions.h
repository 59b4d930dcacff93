#pragma once

// Both ops written in differentiable ATen operations, for where the nodes of node.h do not reach:
// forward-mode AD. They give the same values and derivatives.

#include <ops/checks.h>

namespace myemb {

// Whether a transform of torch.func is active. Nodes work there as they do elsewhere, but for
// sparse gradients: their entries cannot be batched, and so they become dense.
bool is_transformed();

// Whether any of the tensors (null: none) carries a forward-mode tangent, or Python asks for the
// decomposition.
bool needs_decomposition(std::initializer_list<const at::Tensor*> tensors);
bool needs_decomposition(at::TensorList tensors);

at::Tensor decompose_embedding(const at::Tensor& weight, const at::Tensor& indices,
                               const c10::SymInt& padding_idx, bool scale_grad_by_freq);

// padding_idx is a row, or negative for none.
at::Tensor decompose_embedding_bag(const at::Tensor& weight, const BagArguments& bags, int64_t mode,
                                   const c10::SymInt& padding_idx, bool scale_grad_by_freq);

// Mode max with its positions known: output (B, D), zero where a position is -1, differentiable in
// weight and per_sample_weights.
at::Tensor gather_positions(const at::Tensor& weight, const at::Tensor& indices,
                            const at::Tensor& positions, const OptionalTensor& per_sample_weights);

// The values (N, D) of embedding_bag_sparse_backward.
at::Tensor decompose_sparse_values(const at::Tensor& grad_output, const BagArguments& bags,
                                   const c10::SymInt& num_weights, bool scale_grad_by_freq,
                                   int64_t mode, const c10::SymInt& padding_idx);

// The dense gradients and that of per_sample_weights, where they are differentiated forwards.
// positions is given in mode max, and only there.
at::Tensor decompose_embedding_dense_backward(const at::Tensor& grad_output,
                                              const at::Tensor& indices,
                                              const c10::SymInt& num_weights,
                                              const c10::SymInt& padding_idx,
                                              bool scale_grad_by_freq);

at::Tensor decompose_bag_dense_backward(const at::Tensor& grad_output, const BagArguments& bags,
                                        const OptionalTensor& positions,
                                        const c10::SymInt& num_weights, bool scale_grad_by_freq,
                                        int64_t mode, const c10::SymInt& padding_idx);

at::Tensor decompose_per_sample_weights_backward(const at::Tensor& grad_output,
                                                 const at::Tensor& weight, const BagArguments& bags,
                                                 const OptionalTensor& positions, int64_t mode,
                                                 const c10::SymInt& padding_idx);

}  // namespace myemb
