#pragma once

// Reductions over the columns of a row in the fixed lanes and the fixed tree of the numbers
// contract.

#include <cpu/kernels/simd.h>
#include <policies/numbers.h>

namespace myemb::MYEMB_ISA {

// Folds columns [0, dim) into kLanes lanes and joins them pairwise. fold(lane, column) returns the
// lane with the column taken in.
template <typename A, typename Fold, typename Join>
MYEMB_INLINE A reduce_lanes(int64_t dim, A start, const Fold& fold, const Join& join) {
  A lanes[kLanes];
  for (int j = 0; j < kLanes; ++j) lanes[j] = start;
  int64_t column = 0;
  for (; column + kLanes <= dim; column += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] = fold(lanes[j], column + j);
  }
  for (int j = 0; column + j < dim; ++j) lanes[j] = fold(lanes[j], column + j);
  for (int step = kLanes / 2; step > 0; step /= 2) {
    for (int j = 0; j < step; ++j) lanes[j] = join(lanes[j], lanes[j + step]);
  }
  return lanes[0];
}

}  // namespace myemb::MYEMB_ISA
