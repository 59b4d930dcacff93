#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>

#include "language.h"

namespace cudasim_test {
namespace {

#define BOTH __host__ __device__ inline

// A number with many bits, different for every i.
BOTH double number(int i) {
  return (static_cast<double>((i * 2654435761u) % 100003) - 50001.5) / 1237.0;
}

BOTH double float_arithmetic(int i) {
  const float x = static_cast<float>(number(i)), y = static_cast<float>(number(i + 1));
  return x * y + x / y - sqrtf(fabsf(x)) + fmaf(x, y, 1.5f) + rintf(x) + floorf(y) + truncf(x * 3);
}
BOTH double double_arithmetic(int i) {
  const double x = number(i), y = number(i + 1);
  return x * y + x / y - sqrt(fabs(x)) + fma(x, y, 1.5) + rint(x) + floor(y) + fmin(x, y) +
         fmax(x, 0.0);
}
BOTH double power(int i) { return pow(fabs(number(i)) + 0.1, number(i + 1) / 10); }
BOTH double float_power(int i) {
  return powf(static_cast<float>(fabs(number(i))) + 0.1f, static_cast<float>(number(i + 1)) / 10);
}
BOTH double transcendental(int i) {
  return sin(number(i)) + exp(number(i) / 20) + log(fabs(number(i))) + tanh(number(i));
}
BOTH double float_transcendental(int i) {
  const float x = static_cast<float>(number(i));
  return sinf(x) + expf(x / 20) + logf(fabsf(x)) + cosf(x * 1000);
}
BOTH double integer_division(int i) {
  const int64_t a = static_cast<int64_t>(i) * 7919 - 100000, b = i % 17 - 8 == 0 ? 3 : i % 17 - 8;
  const uint32_t u = static_cast<uint32_t>(i) * 2654435761u;
  return static_cast<double>(a / b + a % b + u / 7 + u % 1000 +
                             (u >> 3) / static_cast<uint32_t>(i + 1));
}
BOTH double half_precision(int i) {
  const __half x = __float2half(static_cast<float>(number(i))), y = __float2half(0.37f);
  return __half2float(__float2half(__half2float(x) * __half2float(y)));
}
BOTH double bfloat_precision(int i) {
  const __nv_bfloat16 x = __float2bfloat16(static_cast<float>(number(i)));
  return __bfloat162float(__float2bfloat16(__bfloat162float(x) * 1.7f));
}
BOTH double local_array(int i) {
  int table[16];
  for (int j = 0; j < 16; ++j) table[j] = (j * 7 + i) % 16;
  int at = i % 16, sum = 0;
  for (int step = 0; step < 20; ++step) {
    at = table[at];
    sum = sum * 3 % 10007 + at;
  }
  return sum;
}
BOTH double switches(int i) {
  double result = 0;
  for (int j = 0; j < 10; ++j) {
    switch ((i + j) % 9) {
      case 0:
        result += 1;
        break;
      case 1:
        result *= 2;
        break;
      case 2:
        result -= j;  // falls through
      case 3:
        result += 3;
        break;
      case 5:
        if (i % 2 == 0) continue;
        result += 5;
        break;
      case 6:
        result = -result;
        break;
      case 7:
        return result + 100;
      default:
        result += 0.5;
    }
  }
  return result;
}
struct Point {
  double x, y, z;
};
__host__ __device__ __noinline__ Point rotated(Point p, int times) {
  for (int j = 0; j < times; ++j) p = {p.y, p.z, p.x + 1};
  return p;
}
BOTH double structs_by_value(int i) {
  const Point p = rotated({number(i), 1, 2}, i % 5);
  return p.x + 10 * p.y + 100 * p.z;
}
BOTH double bit_tricks(int i) {
  uint64_t x = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u;
  x ^= x >> 31;
  x *= 0xBF58476D1CE4E5B9u;
  const uint32_t low = static_cast<uint32_t>(x);
  return static_cast<double>((x >> 40) + (low << 7 | low >> 25) % 1000 +
                             (static_cast<int16_t>(low) >> 3) + (static_cast<int8_t>(low >> 8)));
}

template <double (*kFunction)(int)>
__global__ void evaluate(double* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = kFunction(i);
}

template <double (*kFunction)(int)>
void launch(double* out, int count) {
  evaluate<kFunction><<<(count + 95) / 96, 96>>>(out, count);
}

__global__ void print(int* out) {
  if (threadIdx.x < 2)
    printf("thread %d of %s: %.2f %llx %%\n", threadIdx.x, "block", 1.5 + blockIdx.x,
           0x123456789ull);
  out[threadIdx.x] = 1;
}

__global__ void chain(volatile int* flags) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x > 0) {
    while (flags[blockIdx.x - 1] == 0) {
    }
  }
  flags[blockIdx.x] = 1;
}

__global__ void reverse(int* out) {
  extern __shared__ int tile[];
  __shared__ int count;
  if (threadIdx.x == 0) count = static_cast<int>(blockDim.x);
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = tile[count - 1 - static_cast<int>(threadIdx.x)];
}

}  // namespace

const Expression kExpressions[] = {
    {"float_arithmetic", 0, float_arithmetic, launch<float_arithmetic>},
    {"double_arithmetic", 0, double_arithmetic, launch<double_arithmetic>},
    {"power", 1e-14, power, launch<power>},
    {"float_power", 1e-6, float_power, launch<float_power>},
    {"transcendental", 1e-14, transcendental, launch<transcendental>},
    {"float_transcendental", 1e-5, float_transcendental, launch<float_transcendental>},
    {"integer_division", 0, integer_division, launch<integer_division>},
    {"half_precision", 0, half_precision, launch<half_precision>},
    {"bfloat_precision", 0, bfloat_precision, launch<bfloat_precision>},
    {"local_array", 0, local_array, launch<local_array>},
    {"switches", 0, switches, launch<switches>},
    {"structs_by_value", 0, structs_by_value, launch<structs_by_value>},
    {"bit_tricks", 0, bit_tricks, launch<bit_tricks>},
};
const int kExpressionCount = sizeof kExpressions / sizeof *kExpressions;

void launch_print(int* out) { print<<<1, 32>>>(out); }
void launch_chain(int* flags, int blocks) { chain<<<blocks, 32>>>(flags); }
void launch_dynamic_shared(int* out, int threads) {
  reverse<<<1, threads, threads * sizeof(int)>>>(out);
}

cudaError_t launch_too_much_shared(int* out, int bytes) {
  reverse<<<1, 32, bytes>>>(out);
  const cudaError_t refused = cudaGetLastError();
  if (refused == cudaSuccess) return cudaErrorUnknown;
  const cudaError_t allowed =
      cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (allowed != cudaSuccess) return allowed;
  reverse<<<1, 32, bytes>>>(out);
  return cudaGetLastError();
}

cudaError_t copy_and_fill(int* to, const int* from, size_t bytes) {
  const cudaError_t copied = cudaMemcpyAsync(to, from, bytes / 2, cudaMemcpyDeviceToDevice);
  if (copied != cudaSuccess) return copied;
  return cudaMemsetAsync(reinterpret_cast<char*>(to) + bytes / 2, 1, bytes / 2);
}

}  // namespace cudasim_test
