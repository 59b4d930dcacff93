#pragma once

// The lookups of an embedding_bag call, their offsets checked.

#include <cpu/kernels/kernels.h>
#include <ops/views.h>

#include <memory>

namespace myemb {

class CpuBags : public BagViews {
 public:
  // Throws, too, unless offsets start at 0, do not fall and stay within the lookups.
  CpuBags(const BagArguments& arguments, std::optional<int64_t> padding_idx, int64_t num_weights,
          at::ScalarType values);
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
