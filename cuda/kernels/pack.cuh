#pragma once

// N neighbouring values of a row, read or written in one access of at most 16 bytes.

#include <policies/types.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

namespace myemb::cuda {

// The widest access that a thread can make.
inline constexpr int kAccessBytes = 16;

template <int kBytes>
struct WordOf;
template <>
struct WordOf<16> {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};

template <typename T, int N>
struct Pack {
  T values[N];
};

// A pack as it is loaded. What is under way to a thread is kept so: as values of 16 bits it would
// take twice the registers.
template <typename T, int N>
using Word = typename WordOf<sizeof(T) * N>::type;

// Rows are read-only while a kernel reads them, hence the load through the read-only path.
template <int N, typename T>
__device__ __forceinline__ Word<T, N> load_word(const T* from) {
  return __ldg(reinterpret_cast<const Word<T, N>*>(from));
}

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> unpack(const Word<T, N>& word) {
  Pack<T, N> pack;
  memcpy(&pack, &word, sizeof(pack));
  return pack;
}

template <typename T, int N>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, N>& pack) {
  constexpr int kBytes = sizeof(T) * N;
  if constexpr (kBytes > kAccessBytes) {
    constexpr int kHalf = N / 2;
    Pack<T, kHalf> low, high;
    memcpy(&low, pack.values, sizeof(low));
    memcpy(&high, pack.values + kHalf, sizeof(high));
    store_pack(to, low);
    store_pack(to + kHalf, high);
  } else {
    Word<T, N> word;
    memcpy(&word, &pack, sizeof(word));
    __stwb(reinterpret_cast<Word<T, N>*>(to),
           word);  // an assignment would be split into its elements
  }
}

// To the accumulator type, exactly.
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(Half x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ __forceinline__ float widen(BFloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

// The values of a word, widened. Two bf16 are taken out of 32 bits by one instruction each.
template <typename T, int N>
__device__ __forceinline__ void widen_all(const Word<T, N>& word, Accumulator<T> (&values)[N]) {
  if constexpr (std::is_same_v<T, BFloat16> && N > 1) {
    uint32_t pairs[N / 2];
    memcpy(pairs, &word, sizeof(pairs));
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      values[n] = __uint_as_float(pairs[n / 2] << 16);
      values[n + 1] = __uint_as_float(pairs[n / 2] & 0xffff0000u);
    }
  } else {
    const Pack<T, N> pack = unpack<T, N>(word);
#pragma unroll
    for (int n = 0; n < N; ++n) values[n] = widen(pack.values[n]);
  }
}

// Back to the type of the rows: the one rounding of the numbers contract, ties to even.
template <typename T>
__device__ __forceinline__ T narrow(Accumulator<T> x) {
  if constexpr (std::is_same_v<T, Half>) {
    return {__half_as_ushort(__float2half_rn(x))};
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  } else {
    return x;
  }
}

// Two at once, which one instruction does.
__device__ __forceinline__ uint32_t narrow_pair(float low, float high, Half /*type*/) {
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}
__device__ __forceinline__ uint32_t narrow_pair(float low, float high, BFloat16 /*type*/) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

template <typename T, int N>
__device__ __forceinline__ void store_narrowed(T* to, const Accumulator<T> (&values)[N]) {
  Pack<T, N> pack;
  if constexpr (sizeof(T) == 2 && N > 1) {
    uint32_t pairs[N / 2];
#pragma unroll
    for (int n = 0; n < N; n += 2) pairs[n / 2] = narrow_pair(values[n], values[n + 1], T{});
    memcpy(&pack, pairs, sizeof(pack));
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) pack.values[n] = narrow<T>(values[n]);
  }
  store_pack(to, pack);
}

}  // namespace myemb::cuda
