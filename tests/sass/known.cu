// Kernels of which the facts are known, for test_tool.py.

#undef NDEBUG
#include <cassert>

extern "C" {

__global__ void divides_64_bits(long long* values, long long by) { values[threadIdx.x] /= by; }

__global__ void remainder_of_64_bits(unsigned long long* values, unsigned long long by) {
  values[threadIdx.x] %= by;
}

// None of these needs the long routine.
__global__ void divides_otherwise(int* ints, long long* longs, float* floats, double* doubles,
                                  int by) {
  ints[threadIdx.x] /= by;
  longs[threadIdx.x] /= 12345;
  floats[threadIdx.x] /= static_cast<float>(longs[threadIdx.x]);
  doubles[threadIdx.x] /= static_cast<double>(longs[threadIdx.x]);
}

__global__ void adds_atomically(int* total, int* values) { atomicAdd(total, values[threadIdx.x]); }

__global__ void sums_a_warp(int* values) {
  values[threadIdx.x] = __any_sync(~0u, values[threadIdx.x] > 0);
}

__global__ void has_a_stack(int* values, int at) {
  int local[64];
  for (int i = 0; i < 64; ++i) local[values[i] & 63] = i;
  values[threadIdx.x] = local[at & 63];
}

__global__ void copies_16_bytes(uint4* to, const uint4* from) {
  to[threadIdx.x] = from[threadIdx.x];
}

__global__ void copies_2_bytes(short* to, const short* from) {
  to[threadIdx.x] = from[threadIdx.x];
}

// Four loads of 4 bytes that need nothing of each other.
__global__ void loads_side_by_side(float* out, const float* from, int stride, int count) {
  float sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += 4 * stride) {
    const float a = from[i], b = from[i + stride], c = from[i + 2 * stride],
                d = from[i + 3 * stride];
    sum += a + b + c + d;
  }
  out[threadIdx.x] = sum;
}

// Each load needs the result of the one before it.
__global__ void chases_pointers(int* out, const int* next, int count) {
  int at = threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < count; ++i) at = next[next[next[next[at]]]];
  out[threadIdx.x] = at;
}

// The second load has to wait until the first index is known to be good.
__global__ void asserts_between_loads(float* out, const float* rows, const int* index, int count,
                                      int num_rows) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const int at = index[i];
    assert(at < num_rows);
    sum += rows[at];
  }
  out[threadIdx.x] = sum;
}

}  // extern "C"
