#pragma once

// The arguments of embedding_update_, checked, as every device takes them.

#include <myemb/ops.h>
#include <ops/saved.h>

#include <c10/util/Exception.h>

#include <string_view>

namespace myemb {

struct TableUpdate {
  const at::Tensor& weight;
  at::TensorList state;
  const at::Tensor& grad;
  UpdateLookups lookups;
  UpdateOptions options;
};

// Shapes, dtypes and devices of everything, and the numbers. Values of indices are not looked at.
void check_update(const TableUpdate& update);

// The kernel of embedding_update_ that calls run(update): names its arguments.
template <auto run>
void embedding_update_kernel(const at::Tensor& weight, at::TensorList state, const at::Tensor& grad,
                             const OptionalTensor& indices, const OptionalTensor& offsets,
                             const OptionalTensor& positions,
                             const OptionalTensor& per_sample_weights, bool scale_grad_by_freq,
                             int64_t mode, bool include_last_offset, OptionalSymInt padding_idx,
                             std::string_view rule, double lr, double eps, double weight_decay,
                             double shrink, bool maximize, double momentum, double dampening,
                             bool nesterov, double beta1, double beta2, bool amsgrad,
                             std::string_view rounded, int64_t seed, int64_t step) {
  TORCH_CHECK_VALUE(seed >= 0 && step >= 0,
                    "embedding_update_: seed and step have to be 0 or more, "
                    "but are ",
                    seed, " and ", step);
  run({weight,
       state,
       grad,
       {indices, offsets, positions, per_sample_weights, scale_grad_by_freq, mode,
        include_last_offset, std::move(padding_idx)},
       {update_rule(rule), lr, eps, weight_decay, shrink, maximize, momentum, dampening, nesterov,
        beta1, beta2, amsgrad, rounding(rounded), static_cast<uint64_t>(seed),
        static_cast<uint64_t>(step)}});
}

// The update with every tensor that is written contiguous: where one is not, a copy takes its place
// and is copied back when this one is destroyed (not by an exception).
class ContiguousUpdate {
 public:
  explicit ContiguousUpdate(const TableUpdate& update);
  void copy_back() const;

  at::Tensor weight;
  std::vector<at::Tensor> state;

 private:
  const TableUpdate& update_;
};

}  // namespace myemb
