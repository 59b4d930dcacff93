#pragma once

// Everything that the host side of an op asks of CUDA. The tests link another implementation, which
// runs the same host code and the same kernels without a GPU (tests/cudasim).

#include <cuda/launch.h>

#include <ATen/core/Tensor.h>

#include <memory>

namespace myemb::cuda {

// One call of an op: makes the tensor's device current until the end of the scope, and knows the
// stream to launch on. Memory comes from torch's caching allocator, in the order of that stream, so
// that a tensor may be dropped while kernels still use it, and inside a CUDA graph, too.
class DeviceCall {
 public:
  DeviceCall(const at::Tensor& on, const char* op);
  ~DeviceCall();
  DeviceCall(const DeviceCall&) = delete;
  DeviceCall& operator=(const DeviceCall&) = delete;

  Stream stream() const;

  // Uninitialised; the op writes every byte.
  at::Tensor output(at::IntArrayRef sizes, const at::TensorOptions& options) const;

  // Uninitialised bytes for this call alone.
  at::Tensor scratch(int64_t bytes) const;

  // Throws if cuda_error, what a launcher returned, is not success.
  void check(int cuda_error) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace myemb::cuda
