// myemb::embedding_renorm_, from C++.

#include <myemb/ops.h>

#include <cmath>
#include <limits>

#include "testing.h"

namespace myemb {
namespace {

using testing::close;
using testing::expect_error;
using testing::longs;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Every named row scaled by max_norm / (norm + 1e-7) if its norm exceeds max_norm.
at::Tensor renormed(const at::Tensor& weight, const at::Tensor& rows, double max_norm, double p) {
  auto result = weight.clone();
  for (int64_t i = 0; i < rows.numel(); ++i) {
    const auto row = weight[rows[i].item<int64_t>()];
    const double norm = at::linalg_vector_norm(row, p).item<double>();
    if (norm > max_norm) result[rows[i].item<int64_t>()] = row * (max_norm / (norm + 1e-7));
  }
  return result;
}

TEST(Renorm, ScalesTheNamedRowsForEveryNorm) {
  at::manual_seed(0);
  const auto rows = longs({7, 0, 3});
  const auto repeated = longs({3, 0, 7, 7, 3, 3}).view({2, 3});
  for (const int64_t columns : {1, 5, 40}) {
    const auto weight = at::randn({10, columns}, at::kDouble);
    for (const double p : {0., 0.5, 1., 1.5, 2., 3., kInfinity, -kInfinity, -1.}) {
      SCOPED_TRACE(c10::str("columns ", columns, " p ", p));
      auto table = weight.clone();
      EXPECT_TRUE(myemb::embedding_renorm_(table, repeated, 0.5, p).is_same(table));
      EXPECT_TRUE(close(table, renormed(weight, rows, 0.5, p), 1e-10));
    }
  }
}

TEST(Renorm, WorksInEveryTypeOfTableAndIndex) {
  at::manual_seed(0);
  const auto weight = at::randn({10, 20}, at::kDouble);
  const auto expected = renormed(weight, longs({2, 9}), 1.0, 2.0);
  for (const auto dtype : testing::kTableTypes) {
    for (const auto index_dtype : testing::kIndexTypes) {
      SCOPED_TRACE(c10::str(dtype, " ", index_dtype));
      auto table = weight.to(dtype, /*non_blocking=*/false, /*copy=*/true);
      myemb::embedding_renorm_(table, longs({2, 9, 2}).to(index_dtype), 1.0);
      EXPECT_TRUE(close(table, expected,
                        dtype == at::kDouble  ? 1e-12
                        : dtype == at::kFloat ? 1e-5
                                              : 2e-2));
    }
  }
}

TEST(Renorm, WritesTablesWithStridesAndNothingBeside) {
  at::manual_seed(0);
  const auto storage = at::randn({12, 20}, at::kDouble) * 10;
  const auto views = {+[](const at::Tensor& t) { return t.t(); },
                      +[](const at::Tensor& t) { return t.slice(1, 3, 9); },
                      +[](const at::Tensor& t) { return t.slice(1, 0, 20, 3); },
                      +[](const at::Tensor& t) { return t.slice(0, 0, 12, 2); }};
  for (const auto& view : views) {
    SCOPED_TRACE(view(storage).strides());
    auto written = storage.clone();
    auto table = view(written);
    myemb::embedding_renorm_(table, longs({0, 5}), 1.0);
    auto expected = storage.clone();
    view(expected).copy_(renormed(view(storage), longs({0, 5}), 1.0, 2.0));
    EXPECT_TRUE(close(written, expected));
  }
}

TEST(Renorm, EdgeValuesOfTheRow) {
  const double nan = std::nan("");
  auto table = at::tensor({nan, 4., 0., 0., kInfinity, 1.}, at::kDouble).view({3, 2});
  myemb::embedding_renorm_(table, longs({0, 1, 2}), 1.0);
  EXPECT_TRUE(close(table, at::tensor({nan, 4., 0., 0., nan, 0.}, at::kDouble).view({3, 2})));
}

TEST(Renorm, ChangesNothingForABadIndex) {
  const auto weight = at::ones({10, 4}) * 10;
  for (const int64_t bad : {10, -1}) {
    SCOPED_TRACE(bad);
    auto table = weight.clone();
    expect_error<c10::IndexError>(
        "", [&] { myemb::embedding_renorm_(table, longs({0, 1, bad}), 1.0); });
    EXPECT_TRUE(at::equal(table, weight));
  }
}

TEST(Renorm, IsSeenByAutograd) {
  auto leaf = (at::ones({10, 4}) * 10).requires_grad_();
  expect_error<c10::Error>(
      "a leaf Variable that requires grad is being used in an in-place operation.",
      [&] { myemb::embedding_renorm_(leaf, longs({1}), 1.0); });
  auto table = at::ones({10, 4}) * 10;
  const auto version = table._version();
  myemb::embedding_renorm_(table, longs({1}), 1.0);
  EXPECT_GT(table._version(), version);
}

TEST(Renorm, EmptyInputs) {
  auto table = at::ones({3, 2});
  myemb::embedding_renorm_(table, longs({}), 0.1);
  EXPECT_TRUE(at::equal(table, at::ones({3, 2})));
  auto narrow = at::empty({3, 0});
  EXPECT_EQ(myemb::embedding_renorm_(narrow, longs({1}), 0.1).sizes(), at::IntArrayRef({3, 0}));
}

}  // namespace
}  // namespace myemb
