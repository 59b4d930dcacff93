#pragma once

// The lookups of an embedding_bag call on the way back.

#include <cuda/bags.h>
#include <cuda/gradient.h>

namespace myemb::cuda {

// The lookups of a backward op, and what it derives from them in memory of the call.
class BackwardBags : public CudaBags {
 public:
  BackwardBags(const DeviceCall& call, const BagArguments& arguments,
               std::optional<int64_t> padding_idx, int64_t num_weights, const at::Tensor& values,
               int64_t mode);

  // Accumulator type, one for each bag: how many lookups it counts, or the reciprocal. Undefined
  // unless mode is mean.
  at::Tensor divisors(bool inverse) const;

  // For each lookup its bag (int64), -1 for padding, and its weight with mean's division taken in
  // (accumulator type), undefined if all weights are 1.
  struct Sources {
    at::Tensor bags;
    at::Tensor weights;

    const int64_t* bags_data() const;
    const void* weights_data() const;
  };
  Sources sources(Op op) const;

  // Memory for `count` values of the accumulator type.
  at::Tensor values(int64_t count) const { return call_.scratch(count * value_bytes_); }

  Dtype dtype() const { return dtype_; }

 private:
  const DeviceCall& call_;
  Dtype dtype_;
  int64_t value_bytes_;
  bool average_;
};

// The gradient of what an embedding_bag call returned.
struct BagGradientArguments {
  const at::Tensor& grad_output;
  const BagArguments& bags;
  const OptionalTensor& positions;  // in mode max
  int64_t num_weights;
  bool scale_grad_by_freq;
  int64_t mode;
  std::optional<int64_t> padding_idx;
};

// The sum that it makes up for each row of the table, and the memory that this reads. Where the sum
// goes is left open.
class BagGradient {
 public:
  BagGradient(const DeviceCall& call, const BagGradientArguments& arguments, Op op);

  GradientSum sum;

 private:
  void mark_maxima(const DeviceCall& call, const at::Tensor& positions);

  BackwardBags bags_;
  at::Tensor grad_;
  at::Tensor maxima_;
  BackwardBags::Sources sources_;
  at::Tensor shares_;
  RowGroups groups_;
};

}  // namespace myemb::cuda
