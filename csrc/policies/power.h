#pragma once

// x to the power p for x >= 0, with the same bits on every device and for every instruction set:
// the C library's pow and CUDA's differ. Only IEEE + - * /, comparisons and operations on bits,
// never contracted to a fused multiply-add. The special cases are those of C99's pow.
//
//   x^p = 2^(p * log2(x)),  x = m * 2^k,  log2(m) = 2 / ln(2) * atanh((m - 1) / (m + 1)),
//
// and 2^y from the Taylor series of exp (Muller, Elementary Functions: reduction of the argument
// and series). For float it is computed in double, with an error of 2^-40 before the one rounding
// to float. For double, the leading terms are sums of two doubles: the error is below 0.53 ulp,
// also of a subnormal result. tests/cpp/power_test.cpp measures both.

#include <bit>
#include <cstdint>
#include <limits>

#include <policies/types.h>

namespace myemb {
namespace power_of {

// ---- Numbers of twice the precision of double: hi + lo, |lo| at most half an ulp of hi ----

struct Pair {
  double hi, lo;
};

// a + b exactly, for |a| >= |b| or a = 0 (Dekker, 1971, "A floating-point technique for extending
// the available precision").
MYEMB_INLINE Pair sum(double a, double b) {
  const double hi = a + b;
  return {hi, b - (hi - a)};
}

// The same for any a and b (Knuth, The Art of Computer Programming 2, section 4.2.2).
MYEMB_INLINE Pair sum_in_any_order(double a, double b) {
  const double hi = a + b;
  const double of_b = hi - a;
  return {hi, (a - (hi - of_b)) + (b - of_b)};
}

// The upper 26 bits of a and the rest, whose products are exact (Veltkamp, 1968).
MYEMB_INLINE Pair halves(double a) {
  const double scaled = a * 0x8000001p0;
  const double hi = scaled - (scaled - a);
  return {hi, a - hi};
}

// a * b exactly (Dekker, 1971).
MYEMB_INLINE Pair product(double a, double b) {
  const Pair x = halves(a), y = halves(b);
  const double hi = a * b;
  return {hi, (((x.hi * y.hi - hi) + x.hi * y.lo) + x.lo * y.hi) + x.lo * y.lo};
}

MYEMB_INLINE Pair operator+(double a, Pair b) {  // |a| >= |b| or a = 0
  const Pair s = sum(a, b.hi);
  return sum(s.hi, s.lo + b.lo);
}

MYEMB_INLINE Pair operator*(Pair a, Pair b) {
  const Pair p = product(a.hi, b.hi);
  return sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

MYEMB_INLINE Pair operator*(Pair a, double b) {
  const Pair p = product(a.hi, b);
  return sum(p.hi, p.lo + a.lo * b);
}

// ---- The steps ----

// condition ? a : b, by bits: a compiler may not make a branch of it, so lanes can share a vector.
template <typename A>
MYEMB_INLINE A choose(bool condition, A a, A b) {
  using Bits = std::conditional_t<std::is_same_v<A, double>, uint64_t, uint32_t>;
  const Bits mask = Bits(0) - Bits(condition);
  return std::bit_cast<A>((std::bit_cast<Bits>(a) & mask) | (std::bit_cast<Bits>(b) & ~mask));
}

struct Scaled {  // m * 2^k, k a whole number
  double m, k;
};

// 0 < x < inf as m * 2^k, m in [sqrt(1/2), sqrt(2)].
MYEMB_INLINE Scaled decompose(double x) {
  const bool subnormal = x < 0x1p-1022;
  const auto bits = std::bit_cast<uint64_t>(x * choose(subnormal, 0x1p54, 1.));
  const auto m = std::bit_cast<double>((bits & 0xfffffffffffff) | 0x3ff0000000000000);
  const auto k = std::bit_cast<double>((bits >> 52) | 0x4330000000000000);  // 2^52 + exponent
  const bool large = m > 0x1.6a09e667f3bcdp0;
  const double shift = choose(subnormal, 54., 0.) - choose(large, 1., 0.);
  return {m * choose(large, 0.5, 1.), k - (0x1p52 + 1023) - shift};
}

// Adding 1.5 * 2^52 rounds to a whole number, which is then in the lower bits.
MYEMB_INLINE double nearest(double y) { return (y + 0x1.8p52) - 0x1.8p52; }

MYEMB_INLINE double two_to(double k) {  // k a whole number, -1022 <= k <= 1023
  return std::bit_cast<double>(std::bit_cast<uint64_t>(k + (0x1.8p52 + 1023)) << 52);
}

MYEMB_INLINE double clamp(double y, double limit) {
  return choose(y > limit, limit, choose(y < -limit, -limit, y));
}

// 15 atanh(s) = s (15 + t (5 + t (3 + t tail(t)))), t = s * s <= 0.0295: the first coefficients are
// whole numbers. The first term left out is 2^-71 of the sum.
MYEMB_INLINE double atanh_tail(double t) {
  const double upper = 15. / 19 + t * (15. / 21 + t * (15. / 23 + t * (15. / 25)));
  const double middle = 15. / 13 + t * (1 + t * (15. / 17 + t * upper));
  return 15. / 7 + t * (15. / 9 + t * (15. / 11 + t * middle));
}
inline constexpr double kLog2Scale = 0x1.89f3b1694cffep-3;  // 2 / (15 ln(2))
inline constexpr double kLog2ScaleLow = -0x1.2339777c86c81p-60;

// exp(z) = 1 + z + z^2 / 2 + z^3 tail(z), |z| <= ln(2) / 2. The first term left out is 2^-63.
MYEMB_INLINE double exp_tail(double z) {
  const double upper =
      1. / 39916800 + z * (1. / 479001600 + z * (1. / 6227020800 + z * (1. / 87178291200)));
  const double middle =
      1. / 5040 + z * (1. / 40320 + z * (1. / 362880 + z * (1. / 3628800 + z * upper)));
  return 1. / 6 + z * (1. / 24 + z * (1. / 120 + z * (1. / 720 + z * middle)));
}
inline constexpr double kLn2 = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;

// log2(x) and 2^y with an error of about 2^-50 of the result.
MYEMB_INLINE double log2(double x) {
  const auto [m, k] = decompose(x);
  const double s = (m - 1) / (m + 1);
  const double t = s * s;
  return k + s * (15 + t * (5 + t * (3 + t * atanh_tail(t)))) * kLog2Scale;
}

MYEMB_INLINE double exp2(double y) {  // |y| < 1000
  const double n = nearest(y);
  const double z = (y - n) * kLn2;
  return (1 + z * (1 + z * (0.5 + z * exp_tail(z)))) * two_to(n);
}

// log2(x) with an error of about 2^-70 of the result.
MYEMB_INLINE Pair log2_pair(double x) {
  const auto [m, k] = decompose(x);
  const Pair below = sum_in_any_order(m, 1);
  const double quotient = (m - 1) / below.hi;  // m - 1 is exact (Sterbenz)
  const Pair back = product(quotient, below.hi);
  const double rest = ((m - 1 - back.hi) - back.lo) - quotient * below.lo;
  const Pair s = sum(quotient, rest / below.hi);
  const Pair t = s * s;
  const Pair series = s * (15. + t * (5. + t * (3. + t * atanh_tail(t.hi))));
  return k + series * Pair{kLog2Scale, kLog2ScaleLow};
}

// (hi + lo) * 2^n with one rounding, hi + lo in [0.7, 1.42], |n| <= 1100.
MYEMB_INLINE double scaled(double hi, double lo, double n) {
  const Pair v = sum(hi, lo);
  // What the last bit of a subnormal result is worth before scaling is the ulp of unit + v.
  const double smallest_normal = two_to(-1022 - choose(n < -1021, n, -1021.));
  const double unit = choose(v.hi < smallest_normal, smallest_normal, 0.);
  const Pair s = sum(unit, v.hi);
  const double rounded = (s.hi + (s.lo + v.lo)) - unit;
  const double half = nearest(n * 0.5);
  return rounded * two_to(half) * two_to(n - half);
}

// 2^y with an error of about 2^-59 before the rounding, |y| <= 1100.
MYEMB_INLINE double exp2(Pair y) {
  const double n = nearest(y.hi);
  const Pair z = sum_in_any_order(y.hi - n, y.lo) * Pair{kLn2, kLn2Low};
  const Pair square = product(z.hi, z.hi * 0.5);
  const Pair terms = sum(z.hi, square.hi);
  const Pair whole = sum(1, terms.hi);
  const double small = z.hi * z.hi * z.hi * exp_tail(z.hi) + (square.lo + z.hi * z.lo) + z.lo;
  return scaled(whole.hi, whole.lo + (terms.lo + small), n);
}

// x^p, which for 0 < x < inf and numbers is `finite`.
template <typename A>
MYEMB_INLINE A with_special_cases(A x, A p, A finite) {
  constexpr A infinity = std::numeric_limits<A>::infinity();
  A result = choose(x == 0, choose(p < 0, infinity, A(0)), finite);
  result = choose(x == infinity, choose(p < 0, A(0), infinity), result);
  result = choose(x != x, x, choose(p != p, p, result));
  return choose(p == 0 || x == 1, A(1), result);  // of a NaN, too
}

}  // namespace power_of

MYEMB_INLINE float power(float x, float p) {
  const double y = p * power_of::log2(x);
  const double finite = power_of::exp2(power_of::clamp(y, 200));  // rounds to infinity or 0 there
  return power_of::with_special_cases(x, p, static_cast<float>(finite));
}

MYEMB_INLINE double power(double x, double p) {
  // |log2(x)| > 2^-53: beyond 2^70 every result is 0 or infinity, and splitting p would overflow.
  power_of::Pair y = power_of::log2_pair(x) * power_of::clamp(p, 0x1p70);
  y = {power_of::clamp(y.hi, 1100), power_of::clamp(y.lo, 1)};  // lo counts where hi is in range
  return power_of::with_special_cases(x, p, power_of::exp2(y));
}

}  // namespace myemb
