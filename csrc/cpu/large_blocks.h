#pragma once

// Where the memory of CPU ops comes from: small results from PyTorch, large ones from blocks of
// huge pages that are kept for the next call (myemb/memory.h), and so does what a call writes down
// for itself.

#include <ATen/core/Tensor.h>

#include <cstddef>

namespace myemb {

inline constexpr size_t kHugePage = size_t{2} << 20;

// The size, or the address, at which the next huge page begins.
constexpr size_t up_to_huge_page(size_t bytes) {
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

// A new contiguous tensor whose content is unspecified: every element has to be written.
at::Tensor empty_result(at::IntArrayRef shape, const at::TensorOptions& options);

// A new contiguous tensor, and whether it is all zero because the system just gave its memory. If
// not, its content is unspecified.
struct MaybeZeros {
  at::Tensor tensor;
  bool is_zero;
};
MaybeZeros maybe_zeros_result(at::IntArrayRef shape, const at::TensorOptions& options);

// Memory of one call that no tensor has, of unspecified content. malloc would fetch half a megabyte
// from the system for every call, page by page: sorting 64 Ki lookups then took twice as long.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(Scratch&& other) noexcept;
  Scratch& operator=(Scratch&&) = delete;

  // The next `count` elements of it, which begin a cache line.
  template <typename T>
  T* take(int64_t count) {
    T* const part = reinterpret_cast<T*>(data_ + used_);
    used_ += bytes_for<T>(count);
    return part;
  }

  // What `count` elements take.
  template <typename T>
  static size_t bytes_for(int64_t count) {
    constexpr size_t kLine = 64;
    return (static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
  }

 private:
  char* data_;
  bool kept_;  // from the blocks
  size_t used_ = 0;
};

}  // namespace myemb
