// embedding_bag_tables: one call of many features is their calls of embedding_bag, side by side.

#include <myemb/ops.h>

#include "testing.h"

namespace myemb {
namespace {

using testing::close;
using testing::expect_error;
using testing::gradients;
using testing::leaf;
using testing::longs;
using testing::Threads;

constexpr int64_t kSum = 0, kMean = 1, kMax = 2;

// Features 0 and 2 read table 0; three bags each, some of them empty.
struct Call {
  std::vector<at::Tensor> weights{leaf({5, 3}), leaf({4, 2})};
  at::Tensor indices = longs({0, 4, 4, 1, 3, 0, 0, 2, 1, 4});
  at::Tensor offsets = longs({0, 2, 2, 4, 5, 7, 7, 8, 10, 10});
  std::vector<int64_t> feature_tables{0, 1, 0};
  std::vector<int64_t> modes{kSum, kMean};
  std::optional<at::Tensor> per_sample_weights;
  std::vector<c10::SymInt> padding_idx{-1, -1};

  at::Tensor together() const {
    return embedding_bag_tables(weights, indices, offsets, feature_tables, modes,
                                per_sample_weights, padding_idx);
  }

  at::Tensor apart() const {
    std::vector<at::Tensor> outputs;
    for (int64_t f = 0; f < 3; ++f) {
      const int64_t t = feature_tables[f];
      const at::Tensor own = offsets.slice(0, 3 * f, 3 * f + 4);
      const int64_t begin = own[0].item<int64_t>(), end = own[3].item<int64_t>();
      const auto weights_of = per_sample_weights
                                  ? std::optional(per_sample_weights->slice(0, begin, end))
                                  : std::nullopt;
      const auto padding = padding_idx[t] < 0 ? std::nullopt : std::optional(padding_idx[t]);
      outputs.push_back(embedding_bag(weights[t], indices.slice(0, begin, end), own - begin, false,
                                      modes[t], false, weights_of, true, padding));
    }
    return at::cat(outputs, 1);
  }
};

TEST(Tables, Defaults) {
  const std::vector<at::Tensor> weights{at::randn({4, 3}), at::randn({2, 2})};
  const auto out = embedding_bag_tables(weights, longs({1, 2, 0, 1}), longs({0, 1, 2, 3, 4}));
  EXPECT_TRUE(at::equal(out, at::cat({weights[0].slice(0, 1, 3), weights[1]}, 1)));
}

TEST(Tables, EveryModeAndItsDerivatives) {
  for (const int64_t first : {kSum, kMean, kMax}) {
    for (const int64_t second : {kSum, kMean, kMax}) {
      for (const bool weighted : {false, true}) {
        SCOPED_TRACE(c10::str("modes ", first, " and ", second, weighted ? ", weighted" : ""));
        Call call;
        call.modes = {first, second};
        call.padding_idx = {4, -1};
        std::vector<at::Tensor> inputs = call.weights;
        if (weighted) inputs.push_back(*(call.per_sample_weights = leaf({10})));
        testing::expect_same_derivatives([&] { return call.together(); },
                                         [&] { return call.apart(); }, inputs);
      }
    }
  }
}

TEST(Tables, TheMaximaAndTheirPositions) {
  Call call;
  call.modes = {kSum, kMax};
  const auto [out, positions] = embedding_bag_tables_max(call.weights, call.indices, call.offsets,
                                                         call.feature_tables, call.modes);
  EXPECT_TRUE(close(out, call.apart()));
  ASSERT_EQ(positions.sizes(), at::IntArrayRef({3, 2}));
  EXPECT_EQ(positions[0][0].item<int64_t>(), 4);  // counted from the first lookup of the call
  EXPECT_EQ(positions[2][0].item<int64_t>(), -1);
}

TEST(Tables, BitsDoNotDependOnThreads) {
  std::vector<at::Tensor> weights;
  std::vector<int64_t> modes;
  for (int64_t t = 0; t < 6; ++t) {
    weights.push_back(at::randn({300, 16 * t + 5}).requires_grad_());
    modes.push_back(t % 3);
  }
  const auto indices = at::randint(300, {6 * 4000}, at::kLong);
  auto offsets = at::randint(4000, {6, 50}, at::kLong);
  offsets = std::get<0>(offsets.sort(1)) + at::arange(6).unsqueeze(1) * 4000;
  offsets.select(1, 0).copy_(at::arange(6) * 4000);
  offsets = at::cat({offsets.flatten(), longs({6 * 4000})});
  std::vector<std::vector<at::Tensor>> results;
  at::Tensor upstream;
  for (const int threads : {1, 2, 3}) {
    const Threads as_many(threads);
    const auto out = embedding_bag_tables(weights, indices, offsets, std::nullopt, modes);
    if (!upstream.defined()) upstream = at::randn_like(out.detach());
    results.push_back(gradients(out, weights, upstream));
    results.back().push_back(out.detach());
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
    EXPECT_TRUE(at::equal(results[0][i], results[2][i])) << i;
  }
}

TEST(Tables, SparseGradients) {
  Call call;
  const auto out = embedding_bag_tables(call.weights, call.indices, call.offsets,
                                        call.feature_tables, call.modes, std::nullopt, std::nullopt,
                                        /*sparse_tables=*/{0});
  const auto upstream = at::randn_like(out.detach());
  const auto sparse = gradients(out, call.weights, upstream);
  const auto dense = gradients(call.together(), call.weights, upstream);
  ASSERT_TRUE(sparse[0].is_sparse());
  EXPECT_EQ(sparse[0]._nnz(), 7);
  EXPECT_TRUE(close(sparse[0].to_dense(), dense[0]));
  EXPECT_TRUE(close(sparse[1], dense[1]));
}

TEST(Tables, BadIndicesAndOffsets) {
  Call call;
  call.indices[5] = 4;
  expect_error<c10::Error>(
      "Index 5 of input takes value 4 which is not in the valid range [0, 4) of table 1, which "
      "feature 1 reads",
      [&] { call.together(); });
  call = Call();
  call.offsets[3] = 8;
  expect_error<c10::Error>("offsets must not decrease", [&] { call.together(); });
  call.offsets = longs({0, 1});
  expect_error<c10::ValueError>("3 * B + 1 elements, but has 2", [&] { call.together(); });
}

}  // namespace
}  // namespace myemb
