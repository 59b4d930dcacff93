// The vectors of the limit: GCC's vector extensions in the widest registers that the compiler was
// told of, and the few intrinsics for which there is no extension (streaming stores, half floats).
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace limit {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
inline constexpr int kBytes = 64;
#elif defined(__AVX2__) && defined(__F16C__)
inline constexpr int kBytes = 32;
#else
#error "the limit is written for AVX2 and AVX-512"
#endif

using Bytes [[gnu::vector_size(kBytes)]] = long long;
using Floats [[gnu::vector_size(kBytes)]] = float;
using Doubles [[gnu::vector_size(kBytes)]] = double;
using Words [[gnu::vector_size(kBytes)]] = uint32_t;
using Ints [[gnu::vector_size(kBytes)]] = int32_t;
using HalfWords [[gnu::vector_size(kBytes / 2)]] = uint16_t;

template <typename V>
inline V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <typename V>
inline void store(void* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

// p is a multiple of the vector's size.
template <typename V>
inline void stream(void* p, V v) {
#ifdef __AVX512F__
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)v);
#endif
  if constexpr (sizeof(V) == 32) _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)v);
  if constexpr (sizeof(V) == 16) _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)v);
}

// What a table stores: how a vector of elements becomes a vector of accumulators and back.
template <typename Number, typename Vector>
struct Unpacked {
  using Acc = Vector;
  using Scalar = Number;
  using Packed = Vector;
  static constexpr int size = sizeof(Number);
  static Acc widen(Packed v) { return v; }
  static Packed narrow(Acc v) { return v; }
};

using Float = Unpacked<float, Floats>;
using Double = Unpacked<double, Doubles>;

struct BFloat16 {
  using Acc = Floats;
  using Scalar = float;
  using Packed = HalfWords;
  static constexpr int size = 2;
#ifdef __AVX512F__
  static Acc widen(Packed v) { return (Acc)((Words)_mm512_cvtepu16_epi32((__m256i)v) << 16); }
#else
  static Acc widen(Packed v) { return (Acc)((Words)_mm256_cvtepu16_epi32((__m128i)v) << 16); }
#endif
  static Packed narrow(Acc v) {  // to the nearest, ties to even; the limit knows no NaN
    const Words bits = (Words)v;
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, HalfWords);
  }
};

struct Half {
  using Acc = Floats;
  using Scalar = float;
  using Packed = HalfWords;
  static constexpr int size = 2;
#ifdef __AVX512F__
  static Acc widen(Packed v) { return (Acc)_mm512_cvtph_ps((__m256i)v); }
  static Packed narrow(Acc v) { return (Packed)_mm512_cvtps_ph((__m512)v, 0); }
#else
  static Acc widen(Packed v) { return (Acc)_mm256_cvtph_ps((__m128i)v); }
  static Packed narrow(Acc v) { return (Packed)_mm256_cvtps_ph((__m256)v, 0); }
#endif
};

template <typename E>
inline constexpr int kLanes = kBytes / static_cast<int>(sizeof(typename E::Scalar));

}  // namespace limit
