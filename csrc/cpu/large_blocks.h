#pragma once

// Where the results of CPU ops are allocated: small ones by PyTorch, large ones in blocks of huge
// pages that are kept for the next call (myemb/memory.h).

#include <ATen/core/Tensor.h>

namespace myemb {

// A new contiguous tensor whose content is unspecified: every element has to be written.
at::Tensor empty_result(at::IntArrayRef shape, const at::TensorOptions& options);

// A new contiguous tensor of zeros.
at::Tensor zeros_result(at::IntArrayRef shape, const at::TensorOptions& options);

}  // namespace myemb
