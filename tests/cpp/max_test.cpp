// Mode max against loops: long bags that threads share, and the gradient. CTest runs these for
// every instruction set.

#include <myemb/ops.h>

#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "testing.h"

namespace myemb {
namespace {

using testing::close;
using testing::longs;
using testing::Threads;

constexpr int64_t kMax = static_cast<int64_t>(BagMode::Max);
constexpr int64_t kChunk = 256;  // docs/numbers.md
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Bags {
  at::Tensor indices;
  at::Tensor starts;  // one more than there are bags
  std::optional<at::Tensor> weights;
  int64_t padding_idx;
  at::ScalarType index_type = at::kLong;  // of the calls

  int64_t count() const { return starts.numel() - 1; }

  std::tuple<at::Tensor, at::Tensor> max(const at::Tensor& table) const {
    return embedding_bag_max(table, lookups(), offsets(), weights_of(table.scalar_type()),
                             /*include_last_offset=*/true, padding_idx);
  }

  at::Tensor max_without_positions(const at::Tensor& table) const {
    return myemb::embedding_bag(table, lookups(), offsets(), false, kMax, false,
                                weights_of(table.scalar_type()), true, padding_idx);
  }

  at::Tensor gradient(const at::Tensor& upstream, const at::Tensor& positions,
                      int64_t num_rows) const {
    return embedding_bag_dense_backward(upstream, lookups(), offsets(), positions, num_rows, false,
                                        kMax, weights_of(upstream.scalar_type()), true,
                                        padding_idx);
  }

 private:
  at::Tensor lookups() const { return indices.to(index_type); }
  at::Tensor offsets() const { return starts.to(index_type); }
  std::optional<at::Tensor> weights_of(at::ScalarType dtype) const {
    if (!weights) return std::nullopt;
    return weights->to(dtype);
  }
};

// ---- maxima ------------------------------------------------------------------------------------

std::tuple<at::Tensor, at::Tensor> maxima(const Bags& bags, const at::Tensor& table) {
  const int64_t dim = table.size(1);
  const auto out = at::zeros({bags.count(), dim}, at::kDouble);
  const auto positions = at::full({bags.count(), dim}, -1, at::kLong);
  const auto rows = table.accessor<double, 2>();
  const auto indices = bags.indices.accessor<int64_t, 1>(),
             starts = bags.starts.accessor<int64_t, 1>();
  const auto weights = bags.weights.value_or(at::ones({bags.indices.numel()}, at::kDouble));
  const auto factors = weights.accessor<double, 1>();
  auto best = out.accessor<double, 2>();
  auto places = positions.accessor<int64_t, 2>();
  for (int64_t bag = 0; bag < bags.count(); ++bag) {
    for (int64_t i = starts[bag]; i < starts[bag + 1]; ++i) {
      if (indices[i] == bags.padding_idx) continue;
      for (int64_t d = 0; d < dim; ++d) {
        const double x = rows[indices[i]][d] * factors[i];
        if (places[bag][d] >= 0 && !(x > best[bag][d])) continue;
        best[bag][d] = x;
        places[bag][d] = i;
      }
    }
  }
  return {out, positions};
}

// Whole numbers, so that maxima are often equal; what is special about the first row that counts
// and about the others is in the first columns.
at::Tensor special_table(int64_t first_row) {
  const auto table = at::randint(-16, 17, {50, 20}, at::kDouble);
  table.select(1, 1).fill_(-kInfinity);
  table.select(1, 3).fill_(kNan);
  table.select(1, 4).slice(0, 10, 50).fill_(kNan);
  const auto first = table.select(0, first_row);
  first.slice(0, 0, 6).copy_(at::tensor({kNan, -kInfinity, -kInfinity, 1., 2., kNan}, at::kDouble));
  return table;
}

// Short bags before and after one of 100,000 lookups, that begins with so many of padding.
Bags bags_with_a_long_one(int64_t padding, bool weighted) {
  constexpr int64_t kPadding = 7, kFirst = 9, kLong = 100000, kBefore = 5;
  Bags bags{at::randint(50, {kLong + 12}, at::kLong),
            longs({0, 2, kBefore, kBefore + kLong, kLong + 8}), std::nullopt, kPadding};
  bags.starts = at::cat({bags.starts, longs({kLong + 12})});
  const auto lookups = bags.indices.slice(0, kBefore, kBefore + kLong);
  lookups.masked_fill_(lookups == kFirst, kFirst + 1);  // its values shall come once
  lookups.slice(0, 0, padding).fill_(kPadding);
  if (padding < kLong) lookups[padding].fill_(kFirst);
  if (weighted) bags.weights = at::randint(1, 4, {bags.indices.numel()}, at::kDouble);
  return bags;
}

TEST(Max, LongBagsThatThreadsShare) {
  at::manual_seed(0);
  const auto table = special_table(9);
  for (const int64_t padding : {0, 1, 24999, 25000, 40000, 99999, 100000}) {
    for (const bool weighted : {false, true}) {
      Bags bags = bags_with_a_long_one(padding, weighted);
      const auto [expected, places] = maxima(bags, table);
      for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
        const auto rows = table.to(dtype);
        bags.index_type = dtype == at::kBFloat16 ? at::kInt : at::kLong;
        for (const auto& layout : {rows, rows.t().contiguous().t()}) {
          for (const int count : {1, 4}) {
            SCOPED_TRACE(c10::str(padding, " of padding, weighted ", weighted, " ", dtype,
                                  " strides ", layout.strides(), " threads ", count));
            const Threads threads(count);
            const auto [out, positions] = bags.max(layout);
            EXPECT_TRUE(close(out, expected, 0));
            EXPECT_TRUE(at::equal(positions, places));
            EXPECT_TRUE(close(bags.max_without_positions(layout), expected, 0));
          }
        }
      }
    }
  }
}

TEST(Max, EmptyBagsHaveNoPosition) {
  const Bags bags{longs({3, 1, 3, 3}), longs({0, 0, 2, 2, 4}), std::nullopt, 3};
  for (const auto dtype : testing::kTableTypes) {
    for (const int64_t columns : {1, 3, 40}) {
      const auto [out, positions] = bags.max(at::full({4, columns}, -2., dtype));
      EXPECT_TRUE(close(out, at::tensor({0., -2., 0., 0.}).unsqueeze(1).expand({4, columns})));
      EXPECT_TRUE(at::equal(positions, longs({-1, 1, -1, -1}).unsqueeze(1).expand({4, columns})));
    }
  }
}

// ---- the gradient ------------------------------------------------------------------------------

// The gradient in the order of the numbers contract: the maxima of a row's lookups in chunks.
template <typename A>
at::Tensor gradient(const Bags& bags, const at::Tensor& upstream, const at::Tensor& positions,
                    int64_t num_rows) {
  const auto dtype = c10::CppTypeToScalarType<A>::value;
  const int64_t dim = upstream.size(1);
  const auto out = at::zeros({num_rows, dim}, dtype), chunk = at::zeros({num_rows, dim}, dtype);
  std::vector<int64_t> counts(num_rows, 0);
  const auto grads = upstream.to(dtype),
             weights = bags.weights.value_or(at::ones({bags.indices.numel()})).to(dtype);
  const auto grad = grads.template accessor<A, 2>();
  const auto factors = weights.template accessor<A, 1>();
  const auto indices = bags.indices.accessor<int64_t, 1>(),
             starts = bags.starts.accessor<int64_t, 1>();
  const auto places = positions.accessor<int64_t, 2>();
  auto sums = chunk.template accessor<A, 2>();
  for (int64_t bag = 0; bag < bags.count(); ++bag) {
    for (int64_t i = starts[bag]; i < starts[bag + 1]; ++i) {
      const int64_t row = indices[i];
      if (row == bags.padding_idx) continue;
      for (int64_t d = 0; d < dim; ++d) {
        if (places[bag][d] == i) sums[row][d] += grad[bag][d] * factors[i];
      }
      if (++counts[row] % kChunk > 0) continue;
      out.select(0, row).add_(chunk.select(0, row));
      chunk.select(0, row).zero_();
    }
  }
  return out + chunk;
}

// Rows with fewer lookups than a chunk, with as many and with more; the first ones without any.
Bags bags_of_rows_short_and_long(bool weighted) {
  constexpr int64_t kPadding = 293;
  const auto lookups = at::cat({at::full({3000}, 290), at::full({256}, 291), at::full({257}, 292),
                                at::full({900}, kPadding), at::randint(5, 290, {7000})})
                           .to(at::kLong);
  const auto order = at::randperm(lookups.numel());
  Bags bags{lookups.index_select(0, order), {}, std::nullopt, kPadding};
  bags.starts =
      at::cat({longs({0, 0}), at::arange(3, lookups.numel() - 300, 3), longs({lookups.numel()})});
  if (weighted) bags.weights = at::randn({lookups.numel()});
  return bags;
}

TEST(Max, GradientOfRowsWithFewAndManyLookups) {
  at::manual_seed(0);
  for (const bool weighted : {false, true}) {
    Bags bags = bags_of_rows_short_and_long(weighted);
    for (const int64_t columns : {3, 40}) {
      for (const auto dtype : testing::kTableTypes) {
        SCOPED_TRACE(c10::str("weighted ", weighted, " columns ", columns, " ", dtype));
        bags.index_type = dtype == at::kBFloat16 ? at::kInt : at::kLong;
        const auto table = at::randn({300, columns}).to(dtype);
        const auto upstream = at::randn({bags.count(), columns}).to(dtype);
        const auto positions = std::get<1>(bags.max(table));
        Bags rounded = bags;
        if (weighted) rounded.weights = bags.weights->to(dtype).to(at::kDouble);
        const auto exact = gradient<double>(rounded, upstream, positions, 300);
        const auto expected =
            dtype == at::kDouble ? exact : gradient<float>(rounded, upstream, positions, 300);
        for (const int count : {1, 4}) {
          const Threads threads(count);
          const auto actual = bags.gradient(upstream, positions, 300);
          EXPECT_TRUE(at::equal(actual, expected.to(dtype))) << count << " threads";
          const double tolerance = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-4 : 1e-2;
          EXPECT_TRUE(close(actual, exact, tolerance));
        }
      }
    }
  }
}

// The positions are an argument of the op: those of another bag, or of padding, add nothing.
TEST(Max, PositionsThatAreNotTheBagsAddNothing) {
  const Bags bags{longs({0, 1, 2, 0, 1, 2}), longs({0, 3, 6}), std::nullopt, 2};
  const auto positions = longs({0, 3, -1, 2, 1, 1, 2, 4, 5, 3}).view({2, 5});
  const auto upstream = at::arange(1., 11.).view({2, 5});
  auto expected = at::zeros({4, 5});
  expected[0][0] = 1, expected[1][4] = 5, expected[1][2] = 8, expected[0][4] = 10;
  for (const auto dtype : testing::kTableTypes) {
    EXPECT_TRUE(close(bags.gradient(upstream.to(dtype), positions, 4), expected)) << dtype;
  }
}

}  // namespace
}  // namespace myemb
