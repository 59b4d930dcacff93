#pragma once

// The arguments of embedding_bag_tables_update_, as every device takes them: a step of an optimizer
// on some of the tables of an embedding_bag_tables call, by the gradient of its output.

#include <ops/tables.h>
#include <ops/update.h>

namespace myemb {

struct TablesUpdate {
  at::TensorList weights;  // of the call
  at::TensorList state;    // of the updated tables, one table's after the other's
  const at::Tensor& grad_output;
  const OptionalTensor& positions;
  TableLookups lookups;
  TableLayout layout;
  at::IntArrayRef updated_tables;
  UpdateOptions options;

  // The updates of the single tables, whose gradients are not made of their own.
  std::vector<TableUpdate> of_tables() const;
};

void check_tables_update(const TablesUpdate& update);

// Calls the op with everything in its place.
void embedding_bag_tables_update_(const TablesUpdate& update);

// As embedding_update_kernel.
template <auto run>
void embedding_bag_tables_update_kernel(
    at::TensorList weights, at::TensorList state, const at::Tensor& grad_output,
    const at::Tensor& indices, const at::Tensor& offsets, const OptionalTensor& positions,
    at::OptionalIntArrayRef feature_tables, at::OptionalIntArrayRef modes,
    const OptionalTensor& per_sample_weights, at::OptionalSymIntArrayRef padding_idx,
    at::IntArrayRef updated_tables, std::string_view rule, double lr, double eps,
    double weight_decay, double shrink, bool maximize, double momentum, double dampening,
    bool nesterov, double beta1, double beta2, bool amsgrad, std::string_view rounded, int64_t seed,
    int64_t step) {
  run({weights,
       state,
       grad_output,
       positions,
       {indices, offsets, per_sample_weights},
       TableLayout(weights, {feature_tables, modes, padding_idx}),
       updated_tables,
       named_options(rule, lr, eps, weight_decay, shrink, maximize, momentum, dampening, nesterov,
                     beta1, beta2, amsgrad, rounded, seed, step)});
}

}  // namespace myemb
