#pragma once

// What the autograd kernels ask of their arguments, and optional ones among them.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/SymInt.h>
#include <ops/checks.h>

#include <optional>

namespace myemb {

using OptionalSymInt = std::optional<c10::SymInt>;

inline OptionalTensor if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

// The tensor, or null: a view of an optional argument without a copy.
inline const at::Tensor* pointer(const OptionalTensor& tensor) {
  return tensor ? &*tensor : nullptr;
}

inline bool wants_gradient(const at::Tensor& tensor) {
  return at::GradMode::is_enabled() && tensor.requires_grad();
}

inline bool wants_gradient(const OptionalTensor& tensor) {
  return tensor && wants_gradient(*tensor);
}

}  // namespace myemb
