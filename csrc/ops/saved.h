#pragma once

// What the autograd nodes of this library save, and how optional arguments travel through them.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ops/checks.h>

#include <optional>

namespace myemb {

using OptionalSymInt = std::optional<c10::SymInt>;

inline at::Tensor saved(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

inline OptionalTensor if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

inline c10::IValue saved(const OptionalSymInt& index) {
  return index ? c10::IValue(*index) : c10::IValue();
}

inline OptionalSymInt loaded(const c10::IValue& index) {
  return index.isNone() ? std::nullopt : OptionalSymInt(index.toSymInt());
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
