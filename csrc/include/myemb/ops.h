#pragma once

// The operators of torch.ops.myemb as typed C++ functions.
//
// Each function calls the dispatcher, so autograd, functorch transforms and every device work as
// they do for at:: functions. Names, order of arguments and defaults are those of the schemas.
//
// Symbols used below: V rows and D columns of the table, N lookups, B bags. Indices are uint8,
// int16, int32 or int64; offsets int32 or int64.

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <myemb/export.h>
#include <myemb/update.h>
#include <myemb/version.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace myemb {

// How the rows of a bag are combined; the values are those of aten::embedding_bag's `mode`.
enum class BagMode : int64_t { Sum = 0, Mean = 1, Max = 2 };

// Looks up rows: weight (V, D) of any dtype, indices of any shape S; returns S + (D,). padding_idx
// (negative: none) takes no part in the gradient. scale_grad_by_freq divides the gradient of a row
// by the number of its lookups. sparse makes the gradient an uncoalesced COO tensor with an entry
// per lookup. Throws c10::IndexError for an index outside [0, V).
MYEMB_API at::Tensor embedding(const at::Tensor& weight, const at::Tensor& indices,
                               c10::SymInt padding_idx = -1, bool scale_grad_by_freq = false,
                               bool sparse = false);

// The dense gradient (num_weights, D) of embedding: row r is the sum of grad_output over the
// lookups of r, accumulated in fp32 (fp64 for double) and rounded once. Throws c10::IndexError for
// a bad index.
MYEMB_API at::Tensor embedding_dense_backward(const at::Tensor& grad_output,
                                              const at::Tensor& indices, c10::SymInt num_weights,
                                              c10::SymInt padding_idx = -1,
                                              bool scale_grad_by_freq = false);

// Scales in place every row of self (V, D) that indices name and whose norm_type-norm exceeds
// max_norm by max_norm / (norm + 1e-7). Throws c10::IndexError for an index outside [0, V),
// negative ones included, and has then written nothing.
MYEMB_API at::Tensor& embedding_renorm_(at::Tensor& self, const at::Tensor& indices,
                                        double max_norm, double norm_type = 2.0);

// Reduces bags of rows to one row each: returns (B, D) in the dtype of weight (fp64, fp32, fp16,
// bf16).
//
//   indices: (N,) with offsets (B,), or (B + 1,) with include_last_offset; (B, L) without offsets.
//   per_sample_weights: w in the shape of indices, in weight's dtype, or fp32 with a 16-bit table.
//     Mode sum: sum_i w_i x_i; mean: sum_i w_i x_i / n; max: max_i w_i x_i.
//   padding_idx: a row that sum, count and max leave out; negative counts from the end.
//
// An empty bag gives zeros. Of equal maxima the first wins; NaN counts only at the start of a bag.
MYEMB_API at::Tensor embedding_bag(
    const at::Tensor& weight, const at::Tensor& indices,
    const std::optional<at::Tensor>& offsets = std::nullopt, bool scale_grad_by_freq = false,
    int64_t mode = 0, bool sparse = false,
    const std::optional<at::Tensor>& per_sample_weights = std::nullopt,
    bool include_last_offset = false, std::optional<c10::SymInt> padding_idx = std::nullopt);

// embedding_bag in mode max, with where each maximum came from: (output, positions), positions
// int64 (B, D) into the flattened indices, -1 where the bag is empty.
MYEMB_API std::tuple<at::Tensor, at::Tensor> embedding_bag_max(
    const at::Tensor& weight, const at::Tensor& indices,
    const std::optional<at::Tensor>& offsets = std::nullopt,
    const std::optional<at::Tensor>& per_sample_weights = std::nullopt,
    bool include_last_offset = false, std::optional<c10::SymInt> padding_idx = std::nullopt);

// The dense gradient (num_weights, D) of embedding_bag with respect to its table. positions is what
// embedding_bag_max returned, and given exactly in mode max.
MYEMB_API at::Tensor embedding_bag_dense_backward(
    const at::Tensor& grad_output, const at::Tensor& indices,
    const std::optional<at::Tensor>& offsets, const std::optional<at::Tensor>& positions,
    c10::SymInt num_weights, bool scale_grad_by_freq, int64_t mode,
    const std::optional<at::Tensor>& per_sample_weights, bool include_last_offset,
    std::optional<c10::SymInt> padding_idx);

// The values (N, D) of the sparse gradient of embedding_bag, one row per lookup, zero at padding.
MYEMB_API at::Tensor embedding_bag_sparse_backward(
    const at::Tensor& grad_output, const at::Tensor& indices,
    const std::optional<at::Tensor>& offsets, c10::SymInt num_weights, bool scale_grad_by_freq,
    int64_t mode, const std::optional<at::Tensor>& per_sample_weights, bool include_last_offset,
    std::optional<c10::SymInt> padding_idx);

// The gradient of embedding_bag with respect to per_sample_weights: the shape of indices, in the
// accumulation dtype (fp64 for double, otherwise fp32), zero at padding.
MYEMB_API at::Tensor embedding_bag_per_sample_weights_backward(
    const at::Tensor& grad_output, const at::Tensor& weight, const at::Tensor& indices,
    const std::optional<at::Tensor>& offsets, const std::optional<at::Tensor>& positions,
    int64_t mode, bool include_last_offset, std::optional<c10::SymInt> padding_idx);

// embedding_bag of many features in one call, side by side: what at::cat of the features' outputs
// would be, (B, sum of their D), in the dtype that the tables that are read promote to.
//
//   weights: the tables, each (V, D) with a V, a D and a dtype of its own.
//   indices: (N,), all lookups of the first feature, then all of the second, and so on.
//   offsets: (F * B + 1,) for F features of B bags: bag b of feature f is the lookups from
//     offsets[f * B + b] to offsets[f * B + b + 1]. offsets[F * B] is N.
//   feature_tables: (F) the table that each feature reads; by default feature f reads table f.
//   modes: (T) the BagMode of each table; by default sum.
//   per_sample_weights: (N,), as in embedding_bag, and so for each table.
//   padding_idx: (T) a row of each table that sum, count and max leave out; negative: none.
//   sparse_tables: the tables whose gradients are sparse. Not of mode max.
//
// The gradient of a table that several features read is the sum over all their lookups, in the
// order of indices, rounded once. Throws for a bad index, naming its feature.
MYEMB_API at::Tensor embedding_bag_tables(
    at::TensorList weights, const at::Tensor& indices, const at::Tensor& offsets,
    at::OptionalIntArrayRef feature_tables = std::nullopt,
    at::OptionalIntArrayRef modes = std::nullopt,
    const std::optional<at::Tensor>& per_sample_weights = std::nullopt,
    at::OptionalSymIntArrayRef padding_idx = std::nullopt, at::IntArrayRef sparse_tables = {});

// The same with where the maxima of the features in mode max came from: (output, positions),
// positions int64 (B, sum of their D) into indices, -1 where a bag is empty.
MYEMB_API std::tuple<at::Tensor, at::Tensor> embedding_bag_tables_max(
    at::TensorList weights, const at::Tensor& indices, const at::Tensor& offsets,
    at::OptionalIntArrayRef feature_tables = std::nullopt,
    at::OptionalIntArrayRef modes = std::nullopt,
    const std::optional<at::Tensor>& per_sample_weights = std::nullopt,
    at::OptionalSymIntArrayRef padding_idx = std::nullopt);

// The gradients of embedding_bag_tables with respect to the tables in wanted_tables, in that order:
// (V, D), or for one of sparse_tables the values (lookups of the table, D) as those of
// embedding_bag_sparse_backward. Tables are given by their shapes and dtypes (at::ScalarType).
// positions is given exactly if a feature is in mode max.
MYEMB_API std::vector<at::Tensor> embedding_bag_tables_backward(
    const at::Tensor& grad_output, const at::Tensor& indices, const at::Tensor& offsets,
    const std::optional<at::Tensor>& positions, at::SymIntArrayRef num_weights,
    at::SymIntArrayRef embedding_dims, at::IntArrayRef dtypes,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    const std::optional<at::Tensor>& per_sample_weights, at::OptionalSymIntArrayRef padding_idx,
    at::IntArrayRef sparse_tables, at::IntArrayRef wanted_tables);

// The gradient of embedding_bag_tables with respect to per_sample_weights: (N,) in the accumulation
// dtype.
MYEMB_API at::Tensor embedding_bag_tables_per_sample_weights_backward(
    const at::Tensor& grad_output, at::TensorList weights, const at::Tensor& indices,
    const at::Tensor& offsets, const std::optional<at::Tensor>& positions,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    at::OptionalSymIntArrayRef padding_idx);

// The offsets of embedding_bag, (B,) or batches of them (*, B), as a new int64 tensor. Throws
// c10::Error unless each begins at 0, does not decrease and ends within num_lookups, or with
// include_last_offset at num_lookups.
MYEMB_API at::Tensor checked_offsets(const at::Tensor& offsets, c10::SymInt num_lookups,
                                     bool include_last_offset = false);

// The sparse gradient of a table with one entry for each row, rows ascending: what self.coalesce()
// gives, with sums in the accumulation dtype and rounded once. For a COO tensor (num_weights, D) of
// int64 rows with values (N, D); self.coalesce() otherwise, and if self is coalesced or wants a
// gradient. On CUDA it waits for the number of rows, as that does. Throws c10::IndexError for a row
// outside [0, num_weights); on CUDA a device-side assertion fails.
MYEMB_API at::Tensor coalesce(const at::Tensor& self);

// The lookups whose output has a gradient: an embedding_bag call, or without indices none. (A plain
// lookup of N rows is N bags of one: indices (N, 1).)
struct UpdateLookups {
  std::optional<at::Tensor> indices = std::nullopt;
  std::optional<at::Tensor> offsets = std::nullopt;
  std::optional<at::Tensor> positions = std::nullopt;  // of embedding_bag_max, exactly in mode max
  std::optional<at::Tensor> per_sample_weights = std::nullopt;
  bool scale_grad_by_freq = false;
  int64_t mode = 0;
  bool include_last_offset = false;
  std::optional<c10::SymInt> padding_idx = std::nullopt;
};

// One step of an optimizer on the table `weight` (V, D), in place, with the sums and the rounding
// of the numbers contract. The gradient of the table is
//
//   grad (V, D), strided     every row is updated;
//   grad (V, D), sparse      COO; each row that it has an entry for is updated once, by the sum of
//                            its entries, the others stay as they are;
//   that of `lookups`        grad (B, D) is the gradient of what embedding_bag returned; the rows
//                            that were looked up are updated, that of padding_idx is not.
//
// state: the tables of the rule, (V, D) in the accumulator type (fp64 for double, otherwise fp32):
// none for SGD, [b] with momentum, [s] for Adagrad, [m, v] for Adam, [m, v, the largest v] with
// amsgrad; for row-wise Adagrad [s] of (V,). With Rounding::Split one more, int16 (V, D): the low
// halves of the weights, zeros at first. Throws c10::IndexError for a bad index and c10::Error for
// anything else that does not fit, and has then written nothing.
MYEMB_API void embedding_update_(const at::Tensor& weight, at::TensorList state,
                                 const at::Tensor& grad, const UpdateOptions& options,
                                 const UpdateLookups& lookups = {});

// Makes every check that embedding_bag makes of its arguments, offsets included and indices not,
// and nothing else. For who changes the table before the lookup (max_norm) and must not do so in
// vain.
MYEMB_API void check_embedding_bag(const at::Tensor& weight, const at::Tensor& indices,
                                   const std::optional<at::Tensor>& offsets, int64_t mode,
                                   bool scale_grad_by_freq, bool sparse,
                                   const std::optional<at::Tensor>& per_sample_weights,
                                   bool include_last_offset,
                                   std::optional<c10::SymInt> padding_idx);

// The same for embedding_bag_tables, indices included.
MYEMB_API void check_embedding_bag_tables(at::TensorList weights, const at::Tensor& indices,
                                          const at::Tensor& offsets,
                                          at::OptionalIntArrayRef feature_tables,
                                          at::OptionalIntArrayRef modes,
                                          const std::optional<at::Tensor>& per_sample_weights,
                                          at::OptionalSymIntArrayRef padding_idx,
                                          at::IntArrayRef sparse_tables);

// Whether this library was built with CUDA kernels.
MYEMB_API bool has_cuda();

// The instruction set of the CPU kernels in use: "DEFAULT", "AVX2" or "AVX512" (ATEN_CPU_CAPABILITY
// rules).
MYEMB_API std::string cpu_capability();

// How many distinct threads at::parallel_for gives this library: 1 means it was built without
// OpenMP.
MYEMB_API int64_t count_parallel_threads();

}  // namespace myemb
