// What PTX arithmetic must return, computed another way: exactly, in 113 bits, and rounded once.
#pragma once

#include <quadmath.h>

#include <bit>
#include <cstdint>

namespace cudasim_test {

using Exact = __float128;

enum class Rounding { kNearest, kZero, kDown, kUp };

// An IEEE binary format.
struct Format {
  int bits, mantissa_bits, max_exponent;
  uint64_t nan;  // that arithmetic returns

  int min_exponent() const { return 1 - max_exponent; }
  uint64_t infinity() const { return uint64_t(2 * max_exponent + 1) << mantissa_bits; }
  uint64_t sign() const { return uint64_t{1} << (bits - 1); }
};
inline constexpr Format kF16{16, 10, 15, 0x7fff};
inline constexpr Format kBF16{16, 7, 127, 0x7fff};
inline constexpr Format kF32{32, 23, 127, 0x7fffffff};
inline constexpr Format kF64{64, 52, 1023, 0x7fffffffffffffff};

inline bool is_nan(uint64_t word, const Format& format) {
  return (word & (format.sign() - 1)) > format.infinity();
}

inline Exact decode(uint64_t word, const Format& format) {
  word &= format.sign() | (format.sign() - 1);
  const uint64_t magnitude = word & (format.sign() - 1);
  const Exact sign = (word & format.sign()) != 0 ? -1 : 1;
  if (magnitude > format.infinity()) return nanq("");
  if (magnitude == format.infinity()) return sign * HUGE_VALQ;
  const auto exponent = static_cast<int>(magnitude >> format.mantissa_bits);
  const uint64_t fraction = magnitude & ((uint64_t{1} << format.mantissa_bits) - 1);
  const uint64_t significand =
      exponent == 0 ? fraction : fraction | uint64_t{1} << format.mantissa_bits;
  return sign * ldexpq(static_cast<Exact>(significand),
                       (exponent == 0 ? 1 : exponent) - format.max_exponent - format.mantissa_bits);
}

// To an integer: ties go to the even one.
inline Exact round_to_integer(Exact value, Rounding rounding) {
  switch (rounding) {
    case Rounding::kZero:
      return truncq(value);
    case Rounding::kDown:
      return floorq(value);
    case Rounding::kUp:
      return ceilq(value);
    default:
      return nearbyintq(value);
  }
}

inline uint64_t encode(Exact value, const Format& format, Rounding rounding = Rounding::kNearest) {
  if (isnanq(value)) return format.nan;
  const uint64_t sign = signbitq(value) ? format.sign() : 0;
  if (isinfq(value)) return sign | format.infinity();
  if (value == 0) return sign;
  int exponent = 0;
  frexpq(value, &exponent);
  const int lowest = format.min_exponent() - format.mantissa_bits;
  const int step =
      exponent - 1 - format.mantissa_bits < lowest ? lowest : exponent - 1 - format.mantissa_bits;
  const Exact rounded = ldexpq(round_to_integer(ldexpq(value, -step), rounding), step);
  const Exact magnitude = fabsq(rounded);
  const Exact largest = ldexpq(2 - ldexpq(1, -format.mantissa_bits), format.max_exponent);
  if (magnitude > largest) {
    const bool to_infinity = rounding == Rounding::kNearest ||
                             (rounding == Rounding::kUp && sign == 0) ||
                             (rounding == Rounding::kDown && sign != 0);
    return sign | (to_infinity ? format.infinity() : format.infinity() - 1);
  }
  if (magnitude == 0) return sign;
  frexpq(magnitude, &exponent);
  --exponent;
  if (exponent < format.min_exponent()) {
    return sign | static_cast<uint64_t>(ldexpq(magnitude, -lowest));
  }
  const auto significand =
      static_cast<uint64_t>(ldexpq(magnitude, format.mantissa_bits - exponent));
  return sign | (static_cast<uint64_t>(exponent + format.max_exponent) << format.mantissa_bits) |
         (significand & ((uint64_t{1} << format.mantissa_bits) - 1));
}

}  // namespace cudasim_test
