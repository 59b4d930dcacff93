// The numbers contract: what is accumulated in which precision, and the same bits for every number
// of threads. CTest runs these for every instruction set.

#include <myemb/ops.h>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <bit>
#include <cmath>
#include <vector>

#include "testing.h"

namespace myemb {
namespace {

using testing::gradients;
using testing::longs;
using testing::Threads;

constexpr int64_t kSum = static_cast<int64_t>(BagMode::Sum);
constexpr int64_t kMean = static_cast<int64_t>(BagMode::Mean);
constexpr int64_t kMax = static_cast<int64_t>(BagMode::Max);

TEST(Numbers, SixteenBitSumsAreAccumulatedInSinglePrecision) {
  const auto indices = at::zeros({1, 4096}, at::kLong);
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    SCOPED_TRACE(c10::toString(dtype));
    const auto weight = at::full({2, 3}, 100, dtype).requires_grad_();
    const auto mean = myemb::embedding_bag(weight, indices, {}, false, kMean);
    EXPECT_TRUE(at::equal(mean, at::full({1, 3}, 100, dtype)));
    const auto rows = myemb::embedding(weight, indices);
    const auto grad = gradients(rows, {weight}, at::ones_like(rows))[0];
    EXPECT_TRUE(at::equal(grad[0], at::full({3}, 4096, dtype)));
    const auto bag = myemb::embedding_bag(weight, indices, {}, false, kSum);
    EXPECT_TRUE(
        at::equal(gradients(bag, {weight}, at::ones_like(bag))[0][0], at::full({3}, 4096, dtype)));
  }
}

// Forward, dense gradients and the gradient of the weights of one call, with a long bag and a hot
// row.
std::vector<at::Tensor> results(const at::Tensor& weight, const at::Tensor& indices,
                                const at::Tensor& offsets, const at::Tensor& per_sample_weights,
                                int64_t mode) {
  const auto table = weight.detach().requires_grad_();
  const auto scales = per_sample_weights.detach().requires_grad_();
  const auto output = myemb::embedding_bag(table, indices, offsets, false, mode, false, scales);
  auto all = gradients(output, {table, scales}, at::ones_like(output) * 0.37);
  const auto rows = myemb::embedding(table, indices);
  all.push_back(gradients(rows, {table}, rows.detach() * 0.37)[0]);
  all.push_back(output.detach());
  return all;
}

TEST(Numbers, SameBitsForEveryNumberOfThreads) {
  at::manual_seed(0);
  const auto indices =
      at::cat({at::zeros({3000}, at::kLong), at::randint(0, 500, {9000}, at::kLong)});
  const auto offsets = at::cat({longs({0, 0}), at::arange(5000, 12000, 7)});
  for (const auto dtype : testing::kTableTypes) {
    const auto weight = at::randn({500, 37}).to(dtype);
    const auto scales = at::randn({12000}).to(dtype);
    for (const int64_t mode : {kSum, kMean, kMax}) {
      std::vector<at::Tensor> single;
      for (const int count : {1, 2, 4, 8}) {
        SCOPED_TRACE(c10::str(dtype, " mode ", mode, " threads ", count));
        const Threads threads(count);
        const auto all = results(weight, indices, offsets, scales, mode);
        if (count == 1) single = all;
        for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(at::equal(all[i], single[i])) << i;
      }
    }
  }
}

TEST(Numbers, TwoThreadsTakePart) {
  const Threads threads(2);
  EXPECT_EQ(count_parallel_threads(), 2);
}

// One lookup per bag: the row is read, converted, converted back and written, in the widest vectors
// that fit, so every width takes other instructions.
template <typename T>
void expect_every_bit_pattern_survives(at::ScalarType dtype) {
  const auto patterns = at::arange(65536).to(at::kUInt16).view(dtype);
  for (const int64_t columns : {1, 2, 4, 8, 16, 32, 64, 256}) {
    const auto weight = patterns.view({65536 / columns, columns});
    const auto indices = at::arange(weight.size(0)).unsqueeze(1);
    const auto output = myemb::embedding_bag(weight, indices).view(-1);
    const auto* after = output.const_data_ptr<T>();
    int64_t wrong = 0;
    for (int i = 0; i < 65536; ++i) {
      const T before(static_cast<uint16_t>(i), T::from_bits());
      const bool same = before == after[i] || (std::isnan(before) && std::isnan(after[i]));
      wrong += !same;
    }
    EXPECT_EQ(wrong, 0) << columns << " columns";
  }
}

TEST(Numbers, EveryHalfSurvives) { expect_every_bit_pattern_survives<at::Half>(at::kHalf); }

TEST(Numbers, EveryBFloat16Survives) {
  expect_every_bit_pattern_survives<at::BFloat16>(at::kBFloat16);
}

// Values around every rounding decision: the bits that a 16-bit type keeps, over few patterns of
// those it drops.
at::Tensor floats_around_rounding() {
  std::vector<float> values;
  for (uint32_t high = 0; high < 0x8000; ++high) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u,
                               0x3001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  return at::tensor(values);
}

TEST(Numbers, RoundsToTheNearest16BitValue) {
  const auto values = floats_around_rounding();
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    for (const int64_t columns : {1, 3, 8, 40}) {
      for (const double sign : {1., -1.}) {
        SCOPED_TRACE(c10::str(dtype, " columns ", columns, " sign ", sign));
        const auto weight = at::full({1, columns}, sign).to(dtype);
        const auto indices = at::zeros({values.numel(), 1}, at::kLong);
        const auto output =
            myemb::embedding_bag(weight, indices, {}, false, kSum, false, values.unsqueeze(1));
        const auto expected = (values * sign).to(dtype).unsqueeze(1).expand({-1, columns});
        EXPECT_TRUE(at::allclose(output, expected, 0, 0, /*equal_nan=*/true));
      }
    }
  }
}

}  // namespace
}  // namespace myemb
