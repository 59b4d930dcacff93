#include <cuda/device.h>

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace myemb::cuda {

struct DeviceCall::State {
  explicit State(c10::Device device)
      : device(device), guard(device), stream(c10::cuda::getCurrentCUDAStream()) {}

  c10::Device device;
  c10::cuda::CUDAGuard guard;
  c10::cuda::CUDAStream stream;  // the current one of the device that the guard made current
};

DeviceCall::DeviceCall(const at::Tensor& on, const char* /*op*/)
    : state_(std::make_unique<State>(on.device())) {}

DeviceCall::~DeviceCall() = default;

Stream DeviceCall::stream() const { return state_->stream; }

at::Tensor DeviceCall::output(at::IntArrayRef sizes, const at::TensorOptions& options) const {
  return at::empty(sizes, options);
}

at::Tensor DeviceCall::scratch(int64_t bytes) const {
  return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(state_->device));
}

void DeviceCall::check(int cuda_error) const {
  C10_CUDA_CHECK(static_cast<cudaError_t>(cuda_error));
}

}  // namespace myemb::cuda
