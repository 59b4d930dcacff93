// The part of the CUDA runtime that nvcc's host code, launchers and CUB call. Everything is
// synchronous.
//
// An op of a library must not synchronise with the device or allocate behind its caller's back:
// such a call would break CUDA graphs and stall the stream. These functions exist here, do nothing
// useful, and add a report.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cudasim.h"
#include "fatbin.h"
#include "kernels.h"
#include "memory.h"
#include "report.h"

namespace {

struct CallConfiguration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};

struct Runtime {
  std::unordered_map<const void*, std::string> kernels;  // by the address of the host stub
  std::map<std::pair<const void*, int>, size_t>
      dynamic_shared_limits;  // by stub and arch, from cudaFuncSetAttribute
  std::vector<CallConfiguration> calls;
  cudaError_t last_error = cudaSuccess;
};

Runtime& runtime() {
  static auto* const instance = new Runtime;
  return *instance;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) runtime().last_error = error;
  return error;
}

cudaError_t forbidden(const char* call) {
  cudasim::add_report(std::string("forbidden host call ") + call);
  return cudaSuccess;
}

constexpr size_t kDefaultDynamicShared = 48 << 10;

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared) {
  const auto name = runtime().kernels.find(function);
  if (name == runtime().kernels.end()) return remember(cudaErrorInvalidDeviceFunction);
  const auto& limits = runtime().dynamic_shared_limits;
  const auto limit = limits.find({function, cudasim::settings().arch});
  if (shared > (limit == limits.end() ? kDefaultDynamicShared : limit->second)) {
    cudasim::add_report(name->second + ": invalid launch: " + std::to_string(shared) +
                        " bytes of dynamic shared memory, more than cudaFuncSetAttribute allowed");
    return remember(cudaErrorInvalidValue);
  }
  const unsigned grid_size[3] = {grid.x, grid.y, grid.z},
                 block_size[3] = {block.x, block.y, block.z};
  return remember(static_cast<cudaError_t>(
      cudasim::launch(name->second, grid_size, block_size, arguments, shared)));
}

const cudasim::Program* program_of(const void* function) {
  const auto name = runtime().kernels.find(function);
  if (name == runtime().kernels.end()) return nullptr;
  try {
    return cudasim::find_kernel(name->second);
  } catch (const cudasim::ptx::Error& error) {
    cudasim::add_report(name->second + ": " + error.what());
    return nullptr;
  }
}

bool is_device_memory(const void* p, size_t bytes, const char* call) {
  if (bytes == 0) return true;
  const auto address = reinterpret_cast<uint64_t>(p);
  const cudasim::Region* region = cudasim::global_memory().find(address);
  if (region != nullptr && bytes <= region->end() - address) return true;
  cudasim::add_report(std::string(call) + ": " + std::to_string(bytes) +
                      " bytes are not inside of a device allocation");
  return false;
}

cudaError_t copy_on_device(void* to, const void* from, size_t bytes) {
  if (!is_device_memory(to, bytes, "cudaMemcpyAsync") ||
      !is_device_memory(from, bytes, "cudaMemcpyAsync")) {
    return remember(cudaErrorInvalidValue);
  }
  std::memmove(to, from, bytes);
  if (cudasim::unwritten_bytes(from, bytes) == 0) {
    cudasim::mark_written(to, bytes);
  } else {
    for (size_t i = 0; i < bytes; ++i) {
      const bool written = cudasim::unwritten_bytes(static_cast<const char*>(from) + i, 1) == 0;
      (written ? cudasim::mark_written : cudasim::mark_unwritten)(static_cast<char*>(to) + i, 1);
    }
  }
  return cudaSuccess;
}

// Every architecture with code in this process is a device of its own: CUB remembers what it learnt
// about a device.
int current_device() {
  const std::vector<int> archs = cudasim::architectures();
  const auto found = std::find(archs.begin(), archs.end(), cudasim::settings().arch);
  return found == archs.end() ? 0 : static_cast<int>(found - archs.begin());
}

int attribute(cudaDeviceAttr which) {
  const int arch = cudasim::settings().arch;
  switch (which) {
    case cudaDevAttrComputeCapabilityMajor:
      return arch / 10;
    case cudaDevAttrComputeCapabilityMinor:
      return arch % 10;
    case cudaDevAttrMultiProcessorCount:
      return cudasim::settings().multiprocessors;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return 1024;
    case cudaDevAttrMaxBlockDimZ:
      return 64;
    case cudaDevAttrMaxGridDimX:
      return 0x7fffffff;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return 48 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return arch == 75 ? 64 << 10 : 99 << 10;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      return arch == 75 ? 0 : 1 << 10;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      return 16;
    case cudaDevAttrL2CacheSize:
      return 4 << 20;
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrUnifiedAddressing:
      return 1;
    default:
      return 0;
  }
}

}  // namespace

void cudasim::clear() {
  launches().clear();
  reports().clear();
  runtime().last_error = cudaSuccess;
}

extern "C" {

// ---- What nvcc's host stubs call.

void** __cudaRegisterFatBinary(void* wrapper) {
  for (const auto& image : cudasim::ptx_images(wrapper)) {
    try {
      cudasim::load_ptx(image.arch, image.text);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "cudasim: cannot read the PTX of this program: %s\n", error.what());
    }
  }
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  runtime().kernels[stub] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  runtime().calls.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (runtime().calls.empty()) return cudaErrorMissingConfiguration;
  const CallConfiguration call = runtime().calls.back();
  runtime().calls.pop_back();
  *grid = call.grid;
  *block = call.block;
  *shared = call.shared;
  *static_cast<void**>(stream) = call.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t) {
  return launch(kernel, grid, block, arguments, shared);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t) {
  return launch(function, grid, block, arguments, shared);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  return launch(function, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes);
}

// ---- Errors. The last one stays until it is asked for, or cudasim::clear().

cudaError_t cudaGetLastError() { return std::exchange(runtime().last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return runtime().last_error; }
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorInvalidPtx:
      return "cudaErrorInvalidPtx";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorMisalignedAddress:
      return "cudaErrorMisalignedAddress";
    case cudaErrorAssert:
      return "cudaErrorAssert";
    case cudaErrorLaunchTimeout:
      return "cudaErrorLaunchTimeout";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorAssert:
      return "device-side assert triggered";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    default:
      return cudaGetErrorName(error);
  }
}

// ---- The device.

cudaError_t cudaGetDevice(int* device) {
  *device = current_device();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == current_device() ? cudaSuccess : remember(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = std::max(1, static_cast<int>(cudasim::architectures().size()));
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  if (device != current_device()) return remember(cudaErrorInvalidDevice);
  *value = attribute(which);
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const cudasim::Program* program = program_of(function);
  if (program == nullptr) return remember(cudaErrorInvalidDeviceFunction);
  std::memset(attributes, 0, sizeof *attributes);
  attributes->ptxVersion = attributes->binaryVersion = cudasim::settings().arch;
  attributes->maxThreadsPerBlock = static_cast<int>(program->max_threads);
  attributes->sharedSizeBytes = program->static_shared;
  attributes->localSizeBytes = program->local_bytes;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(kDefaultDynamicShared);
  attributes->numRegs = 32;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute which, int value) {
  if (which == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value > attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))
      return remember(cudaErrorInvalidValue);
    runtime().dynamic_shared_limits[{function, cudasim::settings().arch}] =
        static_cast<size_t>(value);
  }
  return cudaSuccess;
}
cudaError_t cudaFuncSetCacheConfig(const void*, cudaFuncCache) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*,
                                                                   int threads, size_t, unsigned) {
  *blocks = std::max(1, attribute(cudaDevAttrMaxThreadsPerMultiProcessor) / std::max(threads, 1));
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared,
                                                                0);
}

// ---- Memory, asynchronous on a stream.

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  if (kind != cudaMemcpyDeviceToDevice && kind != cudaMemcpyDefault) {
    return forbidden(kind == cudaMemcpyDeviceToHost ? "cudaMemcpyAsync (device to host)"
                                                    : "cudaMemcpyAsync (from host)");
  }
  return copy_on_device(to, from, bytes);
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  if (!is_device_memory(p, bytes, "cudaMemsetAsync")) return remember(cudaErrorInvalidValue);
  std::memset(p, value, bytes);
  cudasim::mark_written(p, bytes);
  return cudaSuccess;
}

// ---- Streams and events: there is nothing to wait for.

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetFlags(cudaStream_t, unsigned* flags) {
  *flags = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamGetDevice(cudaStream_t, int* device) { return cudaGetDevice(device); }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }

// ---- What an op must not call.

cudaError_t cudaDeviceSynchronize() { return forbidden("cudaDeviceSynchronize"); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return forbidden("cudaStreamSynchronize"); }
cudaError_t cudaStreamQuery(cudaStream_t) { return forbidden("cudaStreamQuery"); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return forbidden("cudaEventSynchronize"); }
cudaError_t cudaEventQuery(cudaEvent_t) { return forbidden("cudaEventQuery"); }
cudaError_t cudaMemcpy(void*, const void*, size_t, cudaMemcpyKind) {
  return forbidden("cudaMemcpy");
}
cudaError_t cudaMemset(void*, int, size_t) { return forbidden("cudaMemset"); }
cudaError_t cudaMalloc(void** p, size_t) {
  *p = nullptr;
  forbidden("cudaMalloc");
  return remember(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocAsync(void** p, size_t, cudaStream_t) {
  *p = nullptr;
  forbidden("cudaMallocAsync");
  return remember(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void*) { return forbidden("cudaFree"); }
cudaError_t cudaFreeAsync(void*, cudaStream_t) { return forbidden("cudaFreeAsync"); }

}  // extern "C"
