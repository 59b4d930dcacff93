// csrc/cpu/kernels/simd.h: the conversions of 16-bit types in plain vectors, against c10's.
// numbers_test.cpp takes the same values through the kernels of every instruction set.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <cpu/kernels/simd.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace myemb {
namespace {

namespace simd = MYEMB_ISA;

// All bit patterns of a 16-bit type, L of them at a time.
template <typename T, typename Reference, int L>
void expect_exact_loads() {
  for (int first = 0; first < 65536; first += L) {
    std::array<T, L> stored;
    for (int j = 0; j < L; ++j) stored[j].bits = static_cast<uint16_t>(first + j);
    const auto loaded = std::bit_cast<std::array<float, L>>(simd::load<L>(stored.data()));
    for (int j = 0; j < L; ++j) {
      const float expected = Reference(stored[j].bits, Reference::from_bits());
      const bool same = std::isnan(expected) ? std::isnan(loaded[j])
                                             : std::bit_cast<uint32_t>(expected) ==
                                                   std::bit_cast<uint32_t>(loaded[j]);
      ASSERT_TRUE(same) << "pattern " << stored[j].bits << " with " << L << " lanes";
    }
  }
}

// Floats on both sides of every rounding decision: the 16 bits above are all there are, those below
// are zero, least, and around the halves that a kept last bit can have in either type.
std::vector<float> floats_around_rounding() {
  std::vector<float> values;
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x2000u, 0x2fffu,
                               0x3000u, 0x3001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  values.resize(values.size() / 64 * 64);
  return values;
}

template <typename T, typename Reference, int L>
void expect_exact_stores() {
  const auto values = floats_around_rounding();
  for (size_t first = 0; first < values.size(); first += L) {
    std::array<float, L> lanes;
    std::copy_n(values.begin() + first, L, lanes.begin());
    std::array<T, L> stored;
    simd::store<L>(stored.data(), std::bit_cast<simd::Vector<float, L>>(lanes));
    for (int j = 0; j < L; ++j) {
      const Reference expected(lanes[j]);
      const Reference actual(stored[j].bits, Reference::from_bits());
      const bool same = std::isnan(lanes[j]) ? std::isnan(actual) : actual.x == expected.x;
      ASSERT_TRUE(same) << lanes[j] << " became " << actual << ", not " << expected << ", with "
                        << L << " lanes";
    }
  }
}

TEST(Simd, LoadsEveryHalf) {
  expect_exact_loads<Half, c10::Half, 1>();
  expect_exact_loads<Half, c10::Half, 2>();
  expect_exact_loads<Half, c10::Half, simd::kWidestLanes<float>>();
}

TEST(Simd, LoadsEveryBFloat16) {
  expect_exact_loads<BFloat16, c10::BFloat16, 1>();
  expect_exact_loads<BFloat16, c10::BFloat16, 2>();
  expect_exact_loads<BFloat16, c10::BFloat16, simd::kWidestLanes<float>>();
}

TEST(Simd, RoundsToTheNearestHalf) {
  expect_exact_stores<Half, c10::Half, 1>();
  expect_exact_stores<Half, c10::Half, 2>();
  expect_exact_stores<Half, c10::Half, simd::kWidestLanes<float>>();
}

TEST(Simd, RoundsToTheNearestBFloat16) {
  expect_exact_stores<BFloat16, c10::BFloat16, 1>();
  expect_exact_stores<BFloat16, c10::BFloat16, 2>();
  expect_exact_stores<BFloat16, c10::BFloat16, simd::kWidestLanes<float>>();
}

// Every column is covered, and by nothing that would write outside of the row.
TEST(Simd, TilesCoverEveryColumn) {
  for (int64_t dim = 0; dim < 300; ++dim) {
    std::vector<int> covered(dim, 0);
    simd::cover_columns<float>(dim, [&]<int L, int V>(simd::Columns<L, V> columns) {
      for (int v = 0; v < V; ++v) {
        ASSERT_GE(columns[v], 0);
        ASSERT_LE(columns[v] + L, dim);
        for (int64_t d = columns[v]; d < columns[v] + L; ++d) covered[d] = 1;
      }
    });
    EXPECT_EQ(std::count(covered.begin(), covered.end(), 1), dim);
  }
}

}  // namespace
}  // namespace myemb
