#pragma once

// What the tests of optimizers share: the names of their options, and copies of parameters.

#include <myemb/optim.h>

#include <vector>

#include "testing.h"

namespace myemb {

using optim::AdagradOptions;
using optim::AdamOptions;
using optim::AdamWOptions;
using optim::RoundingOptions;
using optim::SGDOptions;

namespace testing {

using Tensors = std::vector<at::Tensor>;

// Leaves that require grad, with the strides of tensors: clone() would make a transposed one
// contiguous.
inline Tensors copies(const Tensors& tensors) {
  Tensors copied;
  for (const at::Tensor& tensor : tensors) {
    copied.push_back(at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options())
                         .copy_(tensor.detach())
                         .requires_grad_());
  }
  return copied;
}

}  // namespace testing
}  // namespace myemb
