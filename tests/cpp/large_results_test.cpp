// Results so large that they are written past the caches, into memory that was another's before.
// Whole numbers, whose sums are exact. CTest runs these for every instruction set.

#include <myemb/ops.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "testing.h"

namespace myemb {
namespace {

using testing::longs;
using testing::Threads;

constexpr int64_t kSum = static_cast<int64_t>(BagMode::Sum);
constexpr int64_t kMean = static_cast<int64_t>(BagMode::Mean);
constexpr int64_t kMax = static_cast<int64_t>(BagMode::Max);
constexpr int64_t kMiB = int64_t{1} << 20;

// Widths in whole cache lines, which are written past the caches, and not.
constexpr int64_t kWidths[] = {64, 66};

at::Tensor whole_numbers(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::randint(-8, 9, shape, dtype);
}

// As many rows as make up so many bytes.
int64_t rows_of(int64_t bytes, int64_t width, at::ScalarType dtype) {
  return bytes / (width * static_cast<int64_t>(c10::elementSize(dtype))) + 1;
}

// What f gives where nothing is zero before.
template <typename F>
at::Tensor into_used_memory(const F& f) {
  f().fill_(7);
  return f();
}

// The sums of values at rows of a table that is zero elsewhere.
at::Tensor scattered(const at::Tensor& rows, const at::Tensor& values, int64_t num_rows) {
  return at::zeros({num_rows, values.size(1)}, at::kFloat)
      .index_add_(0, rows, values.to(at::kFloat))
      .to(values.scalar_type());
}

// What the maxima of bags of two add to the table, where a bag's first maximum wins.
at::Tensor scattered_maxima(const at::Tensor& indices, const at::Tensor& table,
                            const at::Tensor& upstream) {
  const auto first = table.index_select(0, indices.select(1, 0));
  const auto second = table.index_select(0, indices.select(1, 1));
  const auto grad_of_first = upstream * (first >= second).to(upstream.scalar_type());
  return scattered(at::cat({indices.select(1, 0), indices.select(1, 1)}),
                   at::cat({grad_of_first, upstream - grad_of_first}), table.size(0));
}

void expect_dense_gradients(const at::Tensor& indices, const at::Tensor& table) {
  const int64_t num_rows = table.size(0), lookups = indices.numel();
  const auto values = whole_numbers({lookups, table.size(1)}, table.scalar_type());
  const auto flat = indices.reshape(-1);
  EXPECT_TRUE(
      at::equal(into_used_memory([&] { return embedding_dense_backward(values, flat, num_rows); }),
                scattered(flat, values, num_rows)));
  const auto upstream = values.slice(0, 0, indices.size(0));
  const auto gradient = [&](int64_t mode, const std::optional<at::Tensor>& positions) {
    return into_used_memory([&] {
      return embedding_bag_dense_backward(upstream, indices, std::nullopt, positions, num_rows,
                                          false, mode, std::nullopt, false, std::nullopt);
    });
  };
  EXPECT_TRUE(at::equal(gradient(kSum, std::nullopt),
                        scattered(flat, upstream.repeat_interleave(2, 0), num_rows)));
  EXPECT_TRUE(at::equal(gradient(kMax, std::get<1>(embedding_bag_max(table, indices))),
                        scattered_maxima(indices, table, upstream)));
}

// Bags of two, half of them of the same row and another.
at::Tensor bags_with_a_hot_row(int64_t bags, int64_t begin, int64_t end) {
  const auto indices = at::randint(begin, end, {bags, 2}, at::kLong);
  indices.select(1, 1).slice(0, 0, bags, 2).fill_(end - 1);
  return indices;
}

// Lookups in all of the table, in all but its first and last rows, in one row, and none.
TEST(LargeResults, DenseGradients) {
  at::manual_seed(0);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const int64_t width : kWidths) {
      const int64_t num_rows = rows_of(12 * kMiB, width, dtype);
      const auto table = whole_numbers({num_rows, width}, dtype);
      for (const auto& indices :
           {at::randint(0, num_rows, {40000, 2}, at::kLong),
            bags_with_a_hot_row(3000, 1000, num_rows - 1000),
            longs({num_rows - 1, num_rows - 1}).view({1, 2}), longs({}).view({0, 2})}) {
        for (const int count : {4, 1}) {  // one would leave in scratch memory what four need
          SCOPED_TRACE(
              c10::str(dtype, " width ", width, " bags ", indices.size(0), " threads ", count));
          const Threads threads(count);
          expect_dense_gradients(indices, table);
        }
      }
    }
  }
}

TEST(LargeResults, SumsAndMeans) {
  at::manual_seed(0);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const int64_t width : kWidths) {
      SCOPED_TRACE(c10::str(dtype, " width ", width));
      const auto table = whole_numbers({100, width}, dtype);
      const auto indices = at::randint(0, 100, {rows_of(32 * kMiB, width, dtype), 1}, at::kLong);
      const auto expected = table.index_select(0, indices.select(1, 0));
      for (const int64_t mode : {kSum, kMean}) {
        EXPECT_TRUE(at::equal(myemb::embedding_bag(table, indices, {}, false, mode), expected));
      }
    }
  }
}

// ---- sparse gradients of bags ------------------------------------------------------------------

// Equal, and no zero is negative: each is a sum, 0 + w * x.
::testing::AssertionResult equal_with_plain_zeros(const at::Tensor& actual,
                                                  const at::Tensor& expected) {
  if (!at::equal(actual, expected)) return ::testing::AssertionFailure() << "other values";
  if (at::logical_and(actual == 0, actual.signbit()).any().item<bool>()) {
    return ::testing::AssertionFailure() << "a zero is negative";
  }
  return ::testing::AssertionSuccess();
}

// Bags of two lookups. Every seventh is of padding, where a weight is NaN.
void expect_sparse_gradients(int64_t bags, int64_t width, at::ScalarType dtype,
                             at::ScalarType index_dtype) {
  constexpr int64_t kPadding = 3;
  auto indices = at::randint(4, 100, {bags, 2}, at::kLong);
  indices.view(-1).slice(0, 5, 2 * bags, 7).fill_(kPadding);
  const auto counts = (indices != kPadding).to(dtype);
  auto weights = whole_numbers({bags, 2}, dtype);
  const auto upstream = whole_numbers({bags, width}, dtype);
  const auto negative_zeros = at::where(upstream == 0, at::full({}, -0., dtype), upstream);
  const auto rows = upstream.repeat_interleave(2, 0);
  const auto gradient = [&](int64_t mode, const std::optional<at::Tensor>& factors) {
    return into_used_memory([&] {
      return embedding_bag_sparse_backward(negative_zeros, indices.to(index_dtype), std::nullopt,
                                           100, false, mode, factors, false, kPadding);
    });
  };
  const auto times = [&](const at::Tensor& factors) {
    return rows * (factors * counts).reshape({-1, 1}) + 0.;  // exact in all dtypes
  };
  EXPECT_TRUE(equal_with_plain_zeros(gradient(kSum, std::nullopt), times(at::ones_like(weights))));
  EXPECT_TRUE(equal_with_plain_zeros(gradient(kMean, std::nullopt),
                                     times(1 / counts.sum(1, /*keepdim=*/true))));
  const auto expected = times(weights);
  weights = at::where(indices == kPadding, at::full({}, std::nan(""), dtype), weights);
  EXPECT_TRUE(equal_with_plain_zeros(gradient(kSum, weights), expected));
}

TEST(LargeResults, SparseGradientsOfBags) {
  at::manual_seed(0);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const auto index_dtype : {at::kInt, at::kLong}) {
      for (const int64_t width : {int64_t{1}, int64_t{5}, int64_t{64}}) {
        SCOPED_TRACE(c10::str("small ", dtype, " ", index_dtype, " width ", width));
        expect_sparse_gradients(50, width, dtype, index_dtype);
      }
    }
    SCOPED_TRACE(c10::str("large ", dtype));
    expect_sparse_gradients(rows_of(16 * kMiB, 64, dtype), 64, dtype, at::kLong);
  }
}

}  // namespace
}  // namespace myemb
