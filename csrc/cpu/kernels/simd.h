#pragma once

// Vectors of the widest kind that this instruction set has, by the compiler's vector extension:
// plain operators, no intrinsics but for fp16 and stores past the caches. Included only by the
// kernels, which are compiled once per instruction set in a namespace of their own.

#include <policies/types.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef MYEMB_ISA
#define MYEMB_ISA baseline
#endif

// MYEMB_INLINE for a lambda, behind its parameters.
#define MYEMB_INLINE_LAMBDA __attribute__((always_inline))

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

// L numbers of 16 bits as such of 32. Left to itself, GCC widens halves, which it extracts and
// inserts: five instructions for a vector where there is one.
template <int L>
MYEMB_INLINE Vector<uint32_t, L> widen(const uint16_t* from) {
#if defined(__AVX512F__)
  if constexpr (L == 16) {
    return (Vector<uint32_t, L>)_mm512_maskz_cvtepu16_epi32(0xffff, load_raw<__m256i>(from));
  }
#endif
#if defined(__AVX2__)
  if constexpr (L == 8) {
    return (Vector<uint32_t, L>)_mm256_cvtepu16_epi32(load_raw<__m128i>(from));
  }
#endif
  return convert_lanes<uint32_t, L>(load_raw<Vector<uint16_t, L>>(from));
}

// L consecutive values from `from`, converted to the accumulator type.
template <int L, typename T>
MYEMB_INLINE Vector<Accumulator<T>, L> load(const T* from) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return std::bit_cast<Vector<float, L>>(widen<L>(&from->bits) << 16);
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
#if defined(__F16C__)
    if constexpr (L == 8) {
      const auto bits = _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
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

// The square root of each lane, rounded as IEEE says. GCC's vector extension has none.
template <typename V>
MYEMB_INLINE V square_root(V x) {
  if constexpr (std::is_floating_point_v<V>) {
    return std::sqrt(x);
  } else {
    constexpr bool kIsDouble = std::is_same_v<std::remove_cvref_t<decltype(x[0])>, double>;
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64 && kIsDouble) return (V)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
    if constexpr (sizeof(V) == 64 && !kIsDouble) return (V)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#endif
#if defined(__AVX2__)
    if constexpr (sizeof(V) == 32 && kIsDouble) return (V)_mm256_sqrt_pd((__m256d)x);
    if constexpr (sizeof(V) == 32 && !kIsDouble) return (V)_mm256_sqrt_ps((__m256)x);
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(V) == 16 && kIsDouble) return (V)_mm_sqrt_pd((__m128d)x);
    if constexpr (sizeof(V) == 16 && !kIsDouble) return (V)_mm_sqrt_ps((__m128)x);
#endif
    for (size_t lane = 0; lane < sizeof(V) / sizeof(x[0]); ++lane) x[lane] = std::sqrt(x[lane]);
    return x;
  }
}

// V vectors of L lanes of columns, in two halves. The halves may overlap, so that a number of
// vectors that is known to the compiler serves every width between half of them and all: a column
// in both halves gets the same value twice.
template <int L, int V>
struct Columns {
  static constexpr int kHalf = (V + 1) / 2;
  int64_t first;   // column of the first half
  int64_t second;  // and of the second
  MYEMB_INLINE int64_t operator[](int v) const {
    return v < kHalf ? first + v * L : second + (v - kHalf) * L;
  }
};

// The same columns of a row in memory. Bytes are added to the beginnings of the halves, and the
// distance of a vector from there is a constant of its address: V columns added to a row took as
// many instructions again as the sums.
template <typename T, int L, int V>
struct Tile {
  T* first;
  T* second;
  MYEMB_INLINE Tile(T* row, Columns<L, V> columns)
      : first(row + columns.first), second(row + columns.second) {}
  MYEMB_INLINE Tile(T* first, T* second) : first(first), second(second) {}
  // The same columns of another row, so many bytes further on.
  MYEMB_INLINE Tile at(int64_t bytes) const {
    return Tile(reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(first) + bytes),
                reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(second) + bytes));
  }
  MYEMB_INLINE T* operator[](int v) const {
    constexpr int kHalf = Columns<L, V>::kHalf;
    return v < kHalf ? first + v * L : second + (v - kHalf) * L;
  }
};

// The vectors of a tile of sums: half of the registers. With 16 in AVX-512 rather than 8, bags of
// rows of 3 KiB took 0.9 times as long; 24 gained nothing more.
#if defined(__AVX512F__)
inline constexpr int kTileVectors = 16;
#else
inline constexpr int kTileVectors = 8;
#endif

// The columns [first, dim), which V vectors of L lanes can cover if dim is L at least.
template <int L, int V, typename F>
MYEMB_INLINE void cover_rest(int64_t first, int64_t dim, const F& tile) {
  if constexpr (V == 1) {
    tile(Columns<L, 1>{dim - L, dim - L});
  } else if (dim - first > V / 2 * L) {
    tile(Columns<L, V>{first, dim - V / 2 * L});
  } else {
    cover_rest<L, V / 2>(first, dim, tile);
  }
}

template <int L, typename F>
MYEMB_INLINE void cover_narrow_row(int64_t dim, const F& tile) {
  if constexpr (L == 1) {
    if (dim > 0) tile(Columns<1, 1>{0, 0});
  } else if (dim > L / 2) {
    tile(Columns<L / 2, 2>{0, dim - L / 2});
  } else {
    cover_narrow_row<L / 2>(dim, tile);
  }
}

// Covers columns [0, dim) with tiles: calls tile(Columns<L, V>) with
// at most kVectors of the widest vectors each, or with two narrower ones for a row below the
// widest. A tile may come back to columns that are done already; it must therefore only store.
template <typename A, int kVectors = kTileVectors, typename F>
MYEMB_INLINE void cover_columns(int64_t dim, const F& tile) {
  constexpr int L = kWidestLanes<A>;
  if (dim < L) return cover_narrow_row<L>(dim, tile);
  int64_t column = 0;
  for (; dim - column > kVectors * L; column += kVectors * L) {
    tile(Columns<L, kVectors>{column, column + kVectors / 2 * L});
  }
  cover_rest<L, kVectors>(column, dim, tile);
}

// Calls f(columns, first, last) until all tiles of the rows [begin, end) are done. The width of a
// row of one tile is looked at once for all rows, and not for each. A wider row is done before the
// next one, so that its second tile finds pages, and often lines, at hand.
template <typename A, int kVectors = kTileVectors, typename F>
MYEMB_INLINE void for_tiles(int64_t dim, int64_t begin, int64_t end, const F& f) {
  const int64_t step = dim <= kVectors * kWidestLanes<A> ? end - begin : 1;
  for (int64_t row = begin; row < end; row += step) {
    cover_columns<A, kVectors>(dim, [&](auto columns) { f(columns, row, row + step); });
  }
}

// Writes past the caches, if the instruction set can: `to` is a multiple of the block's size.
template <typename Block>
MYEMB_INLINE void stream_bytes(void* to, const Block& block) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Block) == 64) {
    return _mm512_stream_si512(static_cast<__m512i*>(to), std::bit_cast<__m512i>(block));
  }
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(Block) == 32) {
    return _mm256_stream_si256(static_cast<__m256i*>(to), std::bit_cast<__m256i>(block));
  }
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(Block) == 16) {
    return _mm_stream_si128(static_cast<__m128i*>(to), std::bit_cast<__m128i>(block));
  }
#endif
  std::memcpy(to, &block, sizeof(Block));
}

// As store, past the caches.
template <int L, typename T>
MYEMB_INLINE void stream(T* to, Vector<Accumulator<T>, L> value) {
  struct Rounded {
    T lanes[L];
  } rounded;
  store<L>(rounded.lanes, value);
  stream_bytes(to, rounded);
}

// Before another thread may read what was streamed.
MYEMB_INLINE void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace myemb::MYEMB_ISA
