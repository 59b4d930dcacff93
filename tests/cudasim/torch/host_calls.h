#pragma once

#include <ATen/record_function.h>

namespace myemb::simulated {

// While one exists, what the host code of an op asks of ATen is watched. It may allocate, copy,
// convert to another dtype and make views. Anything else is reported: it would wait for the GPU
// (item, nonzero, equal), move data to the host, or compute with kernels that are not ours.
class HostCallWatch {
 public:
  explicit HostCallWatch(const char* op);
  ~HostCallWatch();
  HostCallWatch(const HostCallWatch&) = delete;
  HostCallWatch& operator=(const HostCallWatch&) = delete;

 private:
  const char* outer_op_;
  at::CallbackHandle handle_ = at::INVALID_CALLBACK_HANDLE;
};

}  // namespace myemb::simulated
