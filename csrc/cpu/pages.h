#pragma once

// The memory of a tensor as the system has it: pages.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

namespace myemb {

// Throws unless `tensor` has memory of its own on the CPU.
void check_has_memory(const at::Tensor& tensor, const char* op);

// Addresses from `begin` to before `end`.
struct Span {
  uintptr_t begin;
  uintptr_t end;

  void* data() const { return reinterpret_cast<void*>(begin); }
  size_t bytes() const { return end - begin; }
};

// The elements of a tensor, and what lies between them; empty if there is none.
Span span_of(const at::Tensor& tensor);

// The same with the rest of its first and last page.
Span whole_pages(const Span& span);

}  // namespace myemb
