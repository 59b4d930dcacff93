#pragma once

// The lookups of an embedding_bag call, checked and in the form that kernels take.

#include <cpu/kernels/kernels.h>
#include <ops/checks.h>

#include <memory>

namespace myemb {

class CpuBags {
 public:
  // Throws unless padding_idx is within [-num_weights, num_weights) and offsets start at 0, do not
  // fall and stay within the lookups. `values` is the dtype of the rows.
  CpuBags(const BagArguments& arguments, std::optional<int64_t> padding_idx, int64_t num_weights,
          at::ScalarType values);

  Indices indices;
  Segments segments;
  int64_t padding_idx;  // -1: none
  at::Tensor weights;   // per_sample_weights in the accumulator type, flat; undefined for none

  const void* weights_data() const {
    return weights.defined() ? weights.const_data_ptr() : nullptr;
  }

 private:
  at::Tensor indices_;
  at::Tensor offsets_;
};

// The same lookups as backward sees them: lookup i adds weight[i] * grad_output[bag[i]] to its row.
struct LookupSources {
  std::unique_ptr<int64_t[]> bags;  // (N)
  at::Tensor weights;  // (N) accumulator type: per_sample_weights, 1 / count; undefined: 1
};

LookupSources lookup_sources(const CpuBags& bags, bool average, at::ScalarType accumulator);

// Throws, in PyTorch's words, unless offsets (int64, contiguous) describe bags of num_lookups
// lookups.
void check_offsets(const int64_t* offsets, int64_t count, int64_t num_lookups,
                   bool include_last_offset);

}  // namespace myemb
