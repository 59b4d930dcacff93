// The gradients of embedding_bag_tables as ops. Where they are differentiated themselves, they are
// those of embedding_bag, feature by feature.

#include <ops/tables.h>

#include <ops/decompositions.h>
#include <ops/node.h>
#include <ops/typed_op.h>
#include <ops/types.h>

#include <torch/library.h>

namespace myemb {
namespace {

std::vector<at::Tensor> backward_meta(
    const at::Tensor& grad_output, const at::Tensor& indices, const at::Tensor& offsets,
    const OptionalTensor& positions, at::SymIntArrayRef num_weights,
    at::SymIntArrayRef embedding_dims, at::IntArrayRef dtypes,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    const OptionalTensor& per_sample_weights, at::OptionalSymIntArrayRef padding_idx,
    at::IntArrayRef sparse_tables, at::IntArrayRef wanted_tables) {
  const TableLayout layout({num_weights, embedding_dims, dtypes},
                           {feature_tables, modes, padding_idx});
  const TableLookups lookups{indices, offsets, per_sample_weights};
  check_tables_gradient(grad_output, positions, lookups, layout);
  check_sparse_tables(sparse_tables, layout);
  check_table_list(wanted_tables, layout, "wanted_tables");
  std::vector<at::Tensor> gradients;
  gradients.reserve(wanted_tables.size());
  for (const int64_t t : wanted_tables) {
    const BatchTable& table = layout.tables[t];
    TORCH_CHECK_NOT_IMPLEMENTED(!layout.is_sparse(t, sparse_tables),
                                "embedding_bag_tables_backward: how many entries the "
                                "sparse gradient of table ",
                                t, " has is a matter of values: there is none in a graph");
    gradients.push_back(grad_output.new_empty_symint({table.num_weights, table.dim},
                                                     grad_output.options().dtype(table.type)));
  }
  return gradients;
}

at::Tensor per_sample_weights_backward_meta(const at::Tensor& grad_output, at::TensorList weights,
                                            const at::Tensor& indices, const at::Tensor& offsets,
                                            const OptionalTensor& positions,
                                            at::OptionalIntArrayRef feature_tables,
                                            at::OptionalIntArrayRef modes,
                                            at::OptionalSymIntArrayRef padding_idx) {
  const TableLayout layout(weights, {feature_tables, modes, padding_idx});
  const OptionalTensor none;
  const TableLookups lookups{indices, offsets, none};
  check_tables_weights_gradient(grad_output, weights, positions, lookups, layout);
  return grad_output.new_empty_symint(indices.sym_sizes(),
                                      grad_output.options().dtype(accumulator_type(layout.type)));
}

const auto& backward_op() {
  static const auto op =
      typed_op<decltype(embedding_bag_tables_backward)>("myemb::embedding_bag_tables_backward");
  return op;
}

const auto& per_sample_weights_backward_op() {
  static const auto op = typed_op<decltype(embedding_bag_tables_per_sample_weights_backward)>(
      "myemb::embedding_bag_tables_per_sample_weights_backward");
  return op;
}

std::vector<at::Tensor> backward_autograd(
    c10::DispatchKeySet keys, const at::Tensor& grad_output, const at::Tensor& indices,
    const at::Tensor& offsets, const OptionalTensor& positions, at::SymIntArrayRef num_weights,
    at::SymIntArrayRef embedding_dims, at::IntArrayRef dtypes,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    const OptionalTensor& per_sample_weights, at::OptionalSymIntArrayRef padding_idx,
    at::IntArrayRef sparse_tables, at::IntArrayRef wanted_tables) {
  if (wants_gradient(grad_output) || wants_gradient(per_sample_weights) ||
      needs_decomposition({&grad_output, pointer(per_sample_weights)})) {
    const TableLayout layout({num_weights, embedding_dims, dtypes},
                             {feature_tables, modes, padding_idx});
    const TableLookups lookups{indices, offsets, per_sample_weights};
    check_tables_gradient(grad_output, positions, lookups, layout);
    check_sparse_tables(sparse_tables, layout);
    check_table_list(wanted_tables, layout, "wanted_tables");
    return decompose_tables_backward(grad_output, positions, lookups, layout, sparse_tables,
                                     wanted_tables);
  }
  return below_autograd(backward_op(), keys, grad_output, indices, offsets, positions, num_weights,
                        embedding_dims, dtypes, feature_tables, modes, per_sample_weights,
                        padding_idx, sparse_tables, wanted_tables);
}

at::Tensor per_sample_weights_backward_autograd(
    c10::DispatchKeySet keys, const at::Tensor& grad_output, at::TensorList weights,
    const at::Tensor& indices, const at::Tensor& offsets, const OptionalTensor& positions,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    at::OptionalSymIntArrayRef padding_idx) {
  const bool with_grad = wants_gradient(grad_output) ||
                         std::any_of(weights.begin(), weights.end(), [](const at::Tensor& weight) {
                           return wants_gradient(weight);
                         });
  if (with_grad || needs_decomposition({&grad_output}) || needs_decomposition(weights)) {
    const TableLayout layout(weights, {feature_tables, modes, padding_idx});
    const OptionalTensor none;
    const TableLookups lookups{indices, offsets, none};
    check_tables_weights_gradient(grad_output, weights, positions, lookups, layout);
    return decompose_tables_per_sample_weights_backward(grad_output, weights, positions, lookups,
                                                        layout);
  }
  return below_autograd(per_sample_weights_backward_op(), keys, grad_output, weights, indices,
                        offsets, positions, feature_tables, modes, padding_idx);
}

}  // namespace

std::vector<at::Tensor> embedding_bag_tables_backward(
    const at::Tensor& grad_output, const at::Tensor& indices, const at::Tensor& offsets,
    const OptionalTensor& positions, at::SymIntArrayRef num_weights,
    at::SymIntArrayRef embedding_dims, at::IntArrayRef dtypes,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    const OptionalTensor& per_sample_weights, at::OptionalSymIntArrayRef padding_idx,
    at::IntArrayRef sparse_tables, at::IntArrayRef wanted_tables) {
  return backward_op().call(grad_output, indices, offsets, positions, num_weights, embedding_dims,
                            dtypes, feature_tables, modes, per_sample_weights, padding_idx,
                            sparse_tables, wanted_tables);
}

at::Tensor embedding_bag_tables_per_sample_weights_backward(
    const at::Tensor& grad_output, at::TensorList weights, const at::Tensor& indices,
    const at::Tensor& offsets, const OptionalTensor& positions,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    at::OptionalSymIntArrayRef padding_idx) {
  return per_sample_weights_backward_op().call(grad_output, weights, indices, offsets, positions,
                                               feature_tables, modes, padding_idx);
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) {
  m.impl("embedding_bag_tables_backward", &backward_meta);
  m.impl("embedding_bag_tables_per_sample_weights_backward", &per_sample_weights_backward_meta);
}

TORCH_LIBRARY_IMPL(myemb, Autograd, m) {
  m.impl("embedding_bag_tables_backward", &backward_autograd);
  m.impl("embedding_bag_tables_per_sample_weights_backward", &per_sample_weights_backward_autograd);
}

}  // namespace myemb
