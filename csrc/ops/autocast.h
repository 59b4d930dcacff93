#pragma once

// Under autocast tables keep their dtype, as PyTorch's do, and per_sample_weights that a 16-bit
// layer has computed fit every table.

#include <ops/checks.h>

namespace myemb {

// Weights of 16 bits beside a table of another type, in the type that its sums are accumulated in;
// others as they are.
OptionalTensor weights_beside(at::ScalarType table, const OptionalTensor& per_sample_weights);

// The same where autocast is enabled: for checks that are made before the op is called.
OptionalTensor weights_under_autocast(const at::Tensor& table,
                                      const OptionalTensor& per_sample_weights);

}  // namespace myemb
