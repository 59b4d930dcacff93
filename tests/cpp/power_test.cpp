// csrc/policies/power.h: the special cases of std::pow, the error against powl, and bits that no
// compiler may change.

#include <gtest/gtest.h>
#include <policies/power.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

namespace myemb {
namespace {

template <typename A>
class Power : public ::testing::Test {};

using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Power, Types);

// In ulps of the exact result; those of a subnormal number are all the same.
template <typename A>
double error(A actual, long double exact) {
  using Limits = std::numeric_limits<A>;
  const int exponent = std::max(std::ilogb(exact), Limits::min_exponent - 1);
  const auto ulp = std::ldexp(1.0L, exponent - (Limits::digits - 1));
  if (std::isinf(actual)) return exact >= Limits::max() + ulp / 2 ? 0 : Limits::infinity();
  return static_cast<double>(std::fabs(actual - exact) / ulp);
}

// A float is rounded from double, and is the nearest but for a near tie.
template <typename A>
constexpr double kBound = std::is_same_v<A, float> ? 0.5 + 0x1p-15 : 0.53;

template <typename A>
void expect_accurate(A x, A p) {
  const auto exact = std::pow(static_cast<long double>(x), static_cast<long double>(p));
  ASSERT_LE(error(power(x, p), exact), kBound<A>)
      << std::hexfloat << x << " to the power " << p << " gave " << power(x, p) << " for " << exact;
}

template <typename A>
class Random {
 public:
  A between(double low, double high) {
    return static_cast<A>(std::uniform_real_distribution<double>(low, high)(engine_));
  }
  A with_exponent(int low, int high) {
    return std::ldexp(between(1, 2), std::uniform_int_distribution<int>(low, high)(engine_));
  }

 private:
  std::mt19937_64 engine_{1};
};

template <typename A>
struct Exponents {  // of 2: of the smallest subnormal, the smallest and the largest normal numbers
  static constexpr int largest = std::numeric_limits<A>::max_exponent - 1;
  static constexpr int normal = std::numeric_limits<A>::min_exponent - 1;
  static constexpr int smallest = normal - (std::numeric_limits<A>::digits - 1);
};

constexpr int kCases = 100000;

TYPED_TEST(Power, HasTheSpecialCasesOfC) {
  using A = TypeParam;
  using Limits = std::numeric_limits<A>;
  const A above = std::nextafter(A(1), A(2)), below = std::nextafter(A(1), A(0));
  const std::vector<A> magnitudes{0,
                                  Limits::denorm_min(),
                                  Limits::min(),
                                  0.25,
                                  below,
                                  1,
                                  above,
                                  4,
                                  Limits::max(),
                                  Limits::infinity(),
                                  Limits::quiet_NaN()};
  for (const A x : magnitudes) {
    for (const A magnitude : magnitudes) {
      for (const A p : {magnitude, -magnitude}) {
        SCOPED_TRACE(::testing::Message() << x << " to the power " << p);
        const A actual = power(x, p), expected = std::pow(x, p);
        if (std::isnan(expected)) {
          EXPECT_TRUE(std::isnan(actual));
        } else if (std::isfinite(expected) && expected > 0) {
          expect_accurate(x, p);
        } else {
          EXPECT_EQ(actual, expected);
          EXPECT_FALSE(std::signbit(actual));
        }
      }
    }
  }
}

TYPED_TEST(Power, IsExactWhereTheResultIs) {
  using A = TypeParam;
  for (int n = 1; n <= 200; ++n) {
    const A x = n;
    EXPECT_EQ(power(x, A(1)), x);
    EXPECT_EQ(power(x, A(3)), x * x * x);
    EXPECT_EQ(power(x * x, A(0.5)), x);
    EXPECT_EQ(power(x * x, A(1.5)), x * x * x);
  }
  for (int n = Exponents<A>::smallest; n <= Exponents<A>::largest; ++n) {
    EXPECT_EQ(power(A(2), A(n)), std::ldexp(A(1), n));
    EXPECT_EQ(power(std::ldexp(A(1), n), A(1)), std::ldexp(A(1), n));
  }
}

TYPED_TEST(Power, OfOrdinaryNumbers) {
  using A = TypeParam;
  Random<A> random;
  for (int i = 0; i < kCases; ++i) expect_accurate(random.between(0, 10), random.between(-5, 5));
}

// Every exponent of x, with p such that the result has every exponent, too.
TYPED_TEST(Power, OfTheWholeRange) {
  using A = TypeParam;
  Random<A> random;
  for (int i = 0; i < kCases; ++i) {
    const A x = random.with_exponent(Exponents<A>::smallest, Exponents<A>::largest);
    const A y = random.between(Exponents<A>::smallest - 2, Exponents<A>::largest + 2);
    expect_accurate(x, static_cast<A>(y / std::log2(x)));
  }
}

TYPED_TEST(Power, CloseToOne) {
  using A = TypeParam;
  Random<A> random;
  for (int i = 0; i < kCases; ++i) {
    const A distance = random.with_exponent(-std::numeric_limits<A>::digits, -2);
    const A x = i % 2 == 0 ? 1 + distance : 1 - distance;
    if (x == 1) continue;
    const A y = random.between(Exponents<A>::smallest - 2, Exponents<A>::largest + 2);
    expect_accurate(x, static_cast<A>(y / std::log2(x)));
    expect_accurate(x, random.with_exponent(-10, 10));
  }
}

TYPED_TEST(Power, WithASubnormalResultIsRoundedOnce) {
  using A = TypeParam;
  Random<A> random;
  for (int i = 0; i < kCases; ++i) {
    const A x = random.with_exponent(Exponents<A>::normal, Exponents<A>::largest);
    const A y = random.between(Exponents<A>::smallest - 2, Exponents<A>::normal + 1);
    expect_accurate(x, static_cast<A>(y / std::log2(x)));
  }
}

TYPED_TEST(Power, WithAnExponentNearZeroOrHuge) {
  using A = TypeParam;
  Random<A> random;
  for (int i = 0; i < kCases; ++i) {
    const A x = random.with_exponent(Exponents<A>::smallest, Exponents<A>::largest);
    expect_accurate(x, random.with_exponent(Exponents<A>::smallest, -1));
    const A p = random.with_exponent(64, Exponents<A>::largest);
    EXPECT_EQ(power(x, p), x < 1 ? 0 : std::numeric_limits<A>::infinity());
    EXPECT_EQ(power(x, -p), x < 1 ? std::numeric_limits<A>::infinity() : 0);
  }
}

// A hash over the results of cases that are the same on every machine.
template <typename A, typename Bits>
uint64_t hash() {
  uint64_t state = 88172645463325252, hash = 14695981039346656037u;
  const auto next = [&] {  // xorshift (Marsaglia, 2003)
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  };
  for (int i = 0; i < 100000; ++i) {
    const auto any =
        std::bit_cast<A>(static_cast<Bits>(next()) & ~(Bits(1) << (8 * sizeof(A) - 1)));
    const A x = i % 2 == 0 ? any : static_cast<A>(next() >> 11) * A(0x1p-52);
    const A result = power(x, static_cast<A>(static_cast<int64_t>(next())) * A(0x1p-60));
    hash = (hash ^ (result != result ? 1 : std::bit_cast<Bits>(result))) * 1099511628211;  // FNV-1a
  }
  return hash;
}

TEST(PowerBits, HasTheSameBitsFromEveryCompiler) {
  EXPECT_EQ((hash<float, uint32_t>()), 17080334712533590249u);
  EXPECT_EQ((hash<double, uint64_t>()), 12846397442929665694u);
}

}  // namespace
}  // namespace myemb
