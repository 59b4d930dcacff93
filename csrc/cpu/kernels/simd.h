#pragma once

// Vectors of the widest kind that this instruction set has, by the compiler's vector extension:
// plain operators, no intrinsics but for fp16. Included only by the kernels, which are compiled
// once per instruction set in a namespace of their own.

#include <policies/types.h>

#include <bit>
#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#ifndef MYEMB_ISA
#define MYEMB_ISA baseline
#endif

namespace myemb::MYEMB_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <typename A, int L>
struct VectorOf {
  typedef A type __attribute__((vector_size(sizeof(A) * L)));
};
template <typename A>
struct VectorOf<A, 1> {
  using type = A;
};

// L lanes of A; with one lane the scalar itself, so that the same code serves both.
template <typename A, int L>
using Vector = typename VectorOf<A, L>::type;

template <typename A>
inline constexpr int kWidestLanes = kVectorBytes / sizeof(A);

template <typename To, int L, typename From>
MYEMB_INLINE Vector<To, L> convert_lanes(From from) {
  if constexpr (L == 1) {
    return static_cast<To>(from);
  } else {
    return __builtin_convertvector(from, Vector<To, L>);
  }
}

template <typename V, typename T>
MYEMB_INLINE V load_raw(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

// fp16 to fp32 in integer lanes. A normal number gets another exponent bias; a subnormal one is its
// significand as an integer, times 2^-24: no fp32 subnormal arises, so flush-to-zero changes
// nothing.
template <int L>
MYEMB_INLINE Vector<float, L> half_to_float(Vector<uint16_t, L> half) {
  using U = Vector<uint32_t, L>;
  using F = Vector<float, L>;
  const U wide = convert_lanes<uint32_t, L>(half);
  const U magnitude = (wide & 0x7fff) << 13;
  const U subnormal = std::bit_cast<U>(convert_lanes<float, L>(wide & 0x3ff) * 0x1.0p-24f);
  const U finite = (wide & 0x7c00) == 0 ? subnormal : magnitude + (112u << 23);
  const U special = magnitude | 0x7f800000 | (magnitude > (0x7c00u << 13) ? U{} + 0x400000 : U{});
  const U sign = (wide & 0x8000) << 16;
  return std::bit_cast<F>((magnitude >= (0x7c00u << 13) ? special : finite) | sign);
}

// fp32 to fp16, ties to even: adding a power of two whose last place is the result's last place
// lets the adder round. The two scalings make overflow infinite and keep subnormal results exact.
template <int L>
MYEMB_INLINE Vector<uint16_t, L> float_to_half(Vector<float, L> value) {
  using U = Vector<uint32_t, L>;
  using F = Vector<float, L>;
  const U bits = std::bit_cast<U>(value);
  const U twice = bits + bits;
  U bias = twice & 0xff000000;
  bias = bias < 0x71000000 ? U{} + 0x71000000 : bias;
  const F magnitude = (std::bit_cast<F>(bits & 0x7fffffff) * 0x1.0p112f) * 0x1.0p-110f;
  const U rounded = std::bit_cast<U>(std::bit_cast<F>((bias >> 1) + 0x07800000) + magnitude);
  const U finite = ((rounded >> 13) & 0x7c00) + (rounded & 0x0fff);
  const U unsigned_half = twice > 0xff000000 ? U{} + 0x7e00 : finite;
  return convert_lanes<uint16_t, L>(((bits & 0x80000000) >> 16) | unsigned_half);
}

// fp32 to bf16, ties to even, NaN to the quiet NaN of c10::BFloat16.
template <int L>
MYEMB_INLINE Vector<uint16_t, L> float_to_bfloat16(Vector<float, L> value) {
  using U = Vector<uint32_t, L>;
  const U bits = std::bit_cast<U>(value);
  const U rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return convert_lanes<uint16_t, L>((bits & 0x7fffffff) > 0x7f800000 ? U{} + 0x7fc0 : rounded);
}

// L consecutive values from `from`, converted to the accumulator type.
template <int L, typename T>
MYEMB_INLINE Vector<Accumulator<T>, L> load(const T* from) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const auto bits = load_raw<Vector<uint16_t, L>>(from);
    return std::bit_cast<Vector<float, L>>(convert_lanes<uint32_t, L>(bits) << 16);
  } else if constexpr (std::is_same_v<T, Half>) {
#if defined(__AVX512F__)
    if constexpr (L == 16) {
      return (Vector<float, L>)_mm512_maskz_cvtph_ps(0xffff, load_raw<__m256i>(from));
    }
#endif
#if defined(__F16C__)
    if constexpr (L == 8) {
      return (Vector<float, L>)_mm256_cvtph_ps(load_raw<__m128i>(from));
    }
#endif
    return half_to_float<L>(load_raw<Vector<uint16_t, L>>(from));
  } else {
    return load_raw<Vector<T, L>>(from);
  }
}

// Rounds L accumulators to T and stores them from `to` on.
template <int L, typename T>
MYEMB_INLINE void store(T* to, Vector<Accumulator<T>, L> value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const auto bits = float_to_bfloat16<L>(value);
    std::memcpy(to, &bits, sizeof(bits));
  } else if constexpr (std::is_same_v<T, Half>) {
    // One NaN for every instruction set: the hardware would keep a payload.
    const Vector<float, L> nan = Vector<float, L>{} + std::bit_cast<float>(0x7fc00000u);
    value = value == value ? value : nan;
#if defined(__AVX512F__)
    if constexpr (L == 16) {
      const auto bits = _mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT);
      std::memcpy(to, &bits, sizeof(bits));
      return;
    }
#endif
    const auto bits = float_to_half<L>(value);
    std::memcpy(to, &bits, sizeof(bits));
  } else {
    std::memcpy(to, &value, sizeof(value));
  }
}

// Covers columns [0, dim) with tiles: calls tile.operator()<L, V>(column) for V vectors of L lanes
// from column on. The last tile reaches back over columns already done rather than treat a
// remainder apart; a tile must therefore only store, and narrower vectors serve a row narrower than
// the widest.
template <int L, typename F>
MYEMB_INLINE void for_column_tiles(int64_t dim, const F& tile) {
  int64_t column = 0;
  for (; column + 8 * L <= dim; column += 8 * L) tile.template operator()<L, 8>(column);
  if (column + 4 * L <= dim) {
    tile.template operator()<L, 4>(column);
    column += 4 * L;
  }
  if (column + 2 * L <= dim) {
    tile.template operator()<L, 2>(column);
    column += 2 * L;
  }
  for (; column + L <= dim; column += L) tile.template operator()<L, 1>(column);
  if (column < dim) tile.template operator()<L, 1>(dim - L);
}

template <int L, typename F>
MYEMB_INLINE void for_narrow_row(int64_t dim, const F& tile) {
  if (dim >= L) {
    tile.template operator()<L, 1>(0);
    if (dim > L) tile.template operator()<L, 1>(dim - L);
  } else if constexpr (L > 1) {
    for_narrow_row<L / 2>(dim, tile);
  }
}

template <typename A, typename F>
MYEMB_INLINE void cover_columns(int64_t dim, const F& tile) {
  constexpr int kWidest = kWidestLanes<A>;
  if (dim >= kWidest) {
    for_column_tiles<kWidest>(dim, tile);
  } else {
    for_narrow_row<kWidest / 2>(dim, tile);
  }
}

}  // namespace myemb::MYEMB_ISA
