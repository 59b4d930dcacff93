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

// What a bag's gradient is to its lookups, written down for each of them, by its position.
struct SourceFill {
  Segments segments;
  Indices indices;
  int64_t padding_idx;
  const void* per_sample_weights;  // accumulator type; null: 1
  bool average;
  int64_t first_source = 0;  // bag b is source first_source + b * source_stride
  int64_t source_stride = 1;
  int64_t* sources;  // null: not wanted
  void* weights;     // accumulator type: per_sample_weights, 1 / count; null: not wanted
};

// For the bags [begin, end).
void fill_sources(const SourceFill& fill, at::ScalarType accumulator, int64_t begin, int64_t end);

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
