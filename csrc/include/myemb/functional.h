#pragma once

// torch::nn::functional::embedding and embedding_bag on the operators of myemb.
//
// Signatures, option types, results and gradients are torch's, with these differences
// (docs/differences.md lists all):
//   - A refused call changes nothing. With max_norm, torch writes to the table before its last
//   checks.
//   - max_norm is a double all the way. torch rounds it to float.
//   - 2-D input ignores include_last_offset, as in Python. torch drops the last bag.
//   - per_sample_weights work in every mode.
//   - Offsets that are out of order or out of range are errors.
//
// V rows and D columns of the table, N lookups, B bags. Indices are uint8, int16, int32 or int64.

#include <ATen/core/Tensor.h>
#include <myemb/export.h>
#include <torch/nn/options/embedding.h>

namespace myemb::functional {

using torch::nn::functional::EmbeddingBagFuncOptions;
using torch::nn::functional::EmbeddingFuncOptions;

// Looks up rows: input of any shape S, weight (V, D) of any dtype; returns S + (D,) in the dtype of
// weight.
//
// With max_norm the rows that input names are first scaled down in place to that norm, outside of
// autograd, which asks for a floating-point weight.
//
// Throws c10::ValueError if padding_idx is outside [-V, V) and c10::IndexError if an index is
// outside [0, V).
MYEMB_API at::Tensor embedding(const at::Tensor& input, const at::Tensor& weight,
                               const EmbeddingFuncOptions& options = {});

// Reduces bags of rows to one row each: returns (B, D) in the dtype of weight (fp64, fp32, fp16 or
// bf16).
//
//   input (B, L): a bag per row, no offsets;
//   input (N,): bags begin at options.offsets, int32 or int64 (B,); include_last_offset adds N to
//   them.
//
// options.per_sample_weights has the shape of input and the dtype of weight, or is fp32 with a
// 16-bit table: bags are then sum_i w_i x_i, sum_i w_i x_i / count or max_i w_i x_i.
//
// An empty bag gives zeros. Lookups of padding_idx are left out of the sum, the count and the
// maximum.
//
// Throws c10::ValueError for arguments that do not fit together, with the texts of Python's
// torch.nn.functional.embedding_bag, and c10::IndexError if an index is outside [0, V).
MYEMB_API at::Tensor embedding_bag(const at::Tensor& input, const at::Tensor& weight,
                                   const EmbeddingBagFuncOptions& options = {});

// Scales the rows of weight (V, D) that input names and whose norm_type-norm exceeds max_norm down
// to it, in place and outside of autograd, so that weight may be a leaf that requires grad. Returns
// weight.
//
// Throws c10::IndexError, before anything is written, if an index is out of range.
MYEMB_API at::Tensor embedding_renorm_(const at::Tensor& weight, const at::Tensor& input,
                                       double max_norm, double norm_type = 2.0);

}  // namespace myemb::functional
