// Values as PTX has them: the two 16-bit float formats, NaNs, flushing of subnormals, words of a
// register.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace cudasim {

// The NaN that arithmetic returns, whichever NaN went in.
inline constexpr uint32_t kNan32 = 0x7fffffff;
inline constexpr uint16_t kNan16 = 0x7fff;

inline float half_to_float(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const float scaled =
      std::bit_cast<float>(magnitude << 13) * 0x1p112f;  // exact, subnormals included
  const uint32_t bits =
      magnitude >= 0x7c00u ? (magnitude << 13) | 0x7f800000u : std::bit_cast<uint32_t>(scaled);
  return std::bit_cast<float>(bits | (half & 0x8000u) << 16);
}

// A float that rounds to any format of at most 22 bits as `x` does: truncated, with the last bit
// set if inexact.
inline float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (std::isnan(x) || static_cast<double>(nearest) == x) return nearest;
  const float truncated = std::fabs(static_cast<double>(nearest)) > std::fabs(x)
                              ? std::nextafterf(nearest, 0)
                              : nearest;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(truncated) | 1);
}

// x + y as a double that is odd if inexact, so that a later rounding is the only one.
inline double add_to_odd(double x, double y) {
  const double sum = x + y;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - x;
  const double error = (x - (sum - part)) + (y - part);
  if (error == 0 || (std::bit_cast<uint64_t>(sum) & 1) != 0) return sum;
  return std::nextafter(sum, error > 0 ? INFINITY : -INFINITY);
}

struct F16 {
  uint16_t bits = 0;
  F16() = default;
  explicit F16(float value) {
    const auto half = static_cast<_Float16>(value);
    std::memcpy(&bits, &half, sizeof bits);
    if (std::isnan(value)) bits = kNan16;
  }
  explicit F16(double value) : F16(round_to_odd(value)) {}
  operator float() const { return half_to_float(bits); }
};

struct BF16 {
  uint16_t bits = 0;
  BF16() = default;
  explicit BF16(float value) {
    const auto raw = std::bit_cast<uint32_t>(value);
    bits =
        std::isnan(value) ? kNan16 : static_cast<uint16_t>((raw + 0x7fff + (raw >> 16 & 1)) >> 16);
  }
  explicit BF16(double value) : BF16(round_to_odd(value)) {}
  operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

// Two 16-bit floats in a 32-bit register, two 32-bit ones in a 64-bit register.
template <class T>
struct Pair {
  T low, high;
};

template <class T>
struct IsPair : std::false_type {};
template <class T>
struct IsPair<Pair<T>> : std::true_type {};

// The low bits of a register as a value, and a value as a register. Signed values extend their
// sign.
template <class T>
T from_word(uint64_t word) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(word);
  } else if constexpr (sizeof(T) == 8) {
    return std::bit_cast<T>(word);
  } else if constexpr (sizeof(T) == 4) {
    return std::bit_cast<T>(static_cast<uint32_t>(word));
  } else {
    return std::bit_cast<T>(static_cast<uint16_t>(word));
  }
}

template <class T>
uint64_t to_word(T value) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<uint64_t>(value);
  } else if constexpr (sizeof(T) == 8) {
    return std::bit_cast<uint64_t>(value);
  } else if constexpr (sizeof(T) == 4) {
    return std::bit_cast<uint32_t>(value);
  } else {
    return std::bit_cast<uint16_t>(value);
  }
}

template <class T>
T canonical(T value) {
  return value;
}
inline float canonical(float value) {
  return std::isnan(value) ? std::bit_cast<float>(kNan32) : value;
}

inline float flush(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return (bits & 0x7f800000u) == 0 ? std::bit_cast<float>(bits & 0x80000000u) : value;
}

}  // namespace cudasim
