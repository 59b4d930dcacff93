// myemb/functional.h against torch::nn::functional, and where it has to differ.

#include <myemb/functional.h>
#include <torch/nn/functional/embedding.h>

#include "testing.h"

namespace myemb {
namespace {

namespace F = torch::nn::functional;

using functional::EmbeddingBagFuncOptions;
using functional::EmbeddingFuncOptions;
using testing::close;
using testing::expect_error;
using testing::expect_same_derivatives;
using testing::gradients;
using testing::leaf;
using testing::longs;

TEST(Functional, EmbeddingIsTorchs) {
  at::manual_seed(0);
  const auto weight = leaf({10, 3});
  const auto input = longs({1, 2, 4, 5, 4, 3, 2, 9}).view({2, 4});
  for (const auto& options :
       {EmbeddingFuncOptions(), EmbeddingFuncOptions().padding_idx(4),
        EmbeddingFuncOptions().padding_idx(-6), EmbeddingFuncOptions().padding_idx(0)}) {
    SCOPED_TRACE(options.padding_idx().value_or(1000));
    expect_same_derivatives([&] { return functional::embedding(input, weight, options); },
                            [&] { return F::embedding(input, weight, options); }, {weight});
  }
}

TEST(Functional, EmbeddingBagIsTorchs) {
  at::manual_seed(0);
  const auto weight = leaf({10, 3});
  const auto input = longs({1, 2, 4, 5, 4, 3, 2, 9});
  const auto offsets = longs({0, 4});
  const std::vector<EmbeddingBagFuncOptions> options = {
      EmbeddingBagFuncOptions(),
      EmbeddingBagFuncOptions().mode(torch::kSum),
      EmbeddingBagFuncOptions().mode(torch::kMax),
      EmbeddingBagFuncOptions().mode(torch::kSum).padding_idx(-6),
      EmbeddingBagFuncOptions().mode(torch::kMean).padding_idx(4),
      EmbeddingBagFuncOptions().mode(torch::kMean).scale_grad_by_freq(true),
      EmbeddingBagFuncOptions().mode(torch::kSum).per_sample_weights(at::arange(8, at::kDouble)),
  };
  const auto upstream = at::randn({2, 3}, at::kDouble);
  for (size_t i = 0; i < options.size(); ++i) {
    SCOPED_TRACE(i);
    auto with_offsets = options[i];
    with_offsets.offsets(offsets);
    auto matrix = options[i];
    if (matrix.per_sample_weights().defined())
      matrix.per_sample_weights(matrix.per_sample_weights().view({2, 4}));
    const auto expected = F::embedding_bag(input, weight, with_offsets);
    const auto gradient = gradients(expected, {weight}, upstream)[0];
    for (const auto& actual : {functional::embedding_bag(input, weight, with_offsets),
                               functional::embedding_bag(input.view({2, 4}), weight, matrix)}) {
      EXPECT_TRUE(close(actual, expected));
      EXPECT_TRUE(close(gradients(actual, {weight}, upstream)[0], gradient));
    }
  }
}

TEST(Functional, LastOffsetEndsTheLastBag) {
  const auto weight = at::arange(10, at::kFloat).unsqueeze(1);
  const auto options = EmbeddingBagFuncOptions()
                           .mode(torch::kSum)
                           .include_last_offset(true)
                           .offsets(longs({0, 2, 4}));
  EXPECT_TRUE(close(functional::embedding_bag(longs({1, 2, 4, 5}), weight, options),
                    at::tensor({3., 9.}).unsqueeze(1)));
}

// torch drops the last row here.
TEST(Functional, MatrixInputIgnoresIncludeLastOffset) {
  const auto weight = at::arange(10, at::kFloat).unsqueeze(1);
  const auto input = longs({1, 2, 4, 5}).view({2, 2});
  for (const auto mode : {0, 1, 2}) {
    auto options = EmbeddingBagFuncOptions().include_last_offset(true);
    if (mode == 0) options.mode(torch::kSum);
    if (mode == 2) options.mode(torch::kMax);
    const auto output = functional::embedding_bag(input, weight, options);
    EXPECT_EQ(output.sizes(), at::IntArrayRef({2, 1}));
    EXPECT_TRUE(close(output, F::embedding_bag(input, weight, options.include_last_offset(false))));
  }
}

TEST(Functional, MaxNormScalesTheNamedRowsOutsideOfAutograd) {
  const auto weight = (at::ones({4, 4}) * 3).requires_grad_();
  const auto version = weight._version();
  auto output = functional::embedding(longs({1, 1, 3}), weight, EmbeddingFuncOptions().max_norm(1));
  EXPECT_TRUE(close(weight.norm(2, 1), at::tensor({6., 1., 6., 1.}), 1e-6));
  EXPECT_TRUE(close(output, at::full({3, 4}, 0.5), 1e-6));
  EXPECT_GT(weight._version(), version);
  EXPECT_TRUE(weight.is_leaf());
  const auto bag = EmbeddingBagFuncOptions().max_norm(2).norm_type(1).mode(torch::kSum);
  output = functional::embedding_bag(longs({0, 2}).view({1, 2}), weight, bag);
  EXPECT_TRUE(close(weight.norm(1, 1), at::full({4}, 2.), 1e-6));
  EXPECT_TRUE(close(output, at::full({1, 4}, 1.), 1e-6));
}

TEST(Functional, MaxNormIsADouble) {
  const auto weight = at::ones({1, 1}, at::kDouble);
  functional::embedding(longs({0}), weight, EmbeddingFuncOptions().max_norm(0.1));
  EXPECT_NEAR(weight.item<double>(), 0.1 / (1 + 1e-7), 1e-15);
}

TEST(Functional, MaxNormTakesATableThatIsNoLeaf) {
  const auto leaf = (at::ones({4, 4}) * 3).requires_grad_();
  const auto weight = leaf * 1;
  functional::embedding(longs({1, 2}), weight, EmbeddingFuncOptions().max_norm(1)).sum().backward();
  EXPECT_TRUE(close(leaf.grad().sum(1), at::tensor({0., 4., 4., 0.})));
}

TEST(Functional, MaxNormIsSeenByWhoSavedTheTable) {
  const auto weight = (at::ones({4, 4}) * 3).requires_grad_();
  const auto product = at::mm(weight, at::ones({4, 2}).requires_grad_());
  functional::embedding(longs({1}), weight, EmbeddingFuncOptions().max_norm(1));
  expect_error<c10::Error>(
      "one of the variables needed for gradient computation has been modified by an inplace",
      [&] { product.sum().backward(); });
}

TEST(Functional, ARefusedCallChangesNothing) {
  const auto before = at::ones({4, 4}) * 3;
  const auto refused = [&](auto&& call) {
    const auto weight = before.clone();
    EXPECT_THROW(call(weight), c10::Error);
    EXPECT_TRUE(at::equal(weight, before));
  };
  const auto max_norm = EmbeddingFuncOptions().max_norm(1);
  for (const int64_t bad : {-1, 4}) {
    SCOPED_TRACE(bad);
    refused([&](const at::Tensor& w) { functional::embedding(longs({0, bad}), w, max_norm); });
  }
  refused([&](const at::Tensor& w) {
    functional::embedding(longs({0}), w, EmbeddingFuncOptions().max_norm(1).padding_idx(4));
  });
  const auto bag = EmbeddingBagFuncOptions().max_norm(1).offsets(longs({0, 1}));
  const auto refused_bag = [&](const EmbeddingBagFuncOptions& options, const at::Tensor& input) {
    refused([&](const at::Tensor& w) { functional::embedding_bag(input, w, options); });
  };
  refused_bag(bag, longs({0, -1}));
  refused_bag(bag, longs({0, 4}));
  refused_bag(bag, longs({0, 1}).view({1, 2}));
  auto changed = bag;
  refused_bag(changed.offsets(longs({0, 3})), longs({0, 1}));
  refused_bag(changed.offsets(longs({0, 2, 1})), longs({0, 1}));
  refused_bag(changed.offsets({}), longs({0, 1}));
  changed = bag;
  refused_bag(changed.padding_idx(4), longs({0, 1}));
  changed = bag;
  refused_bag(changed.per_sample_weights(at::ones({3})), longs({0, 1}));
  changed = bag;
  refused_bag(changed.mode(torch::kMax).sparse(true), longs({0, 1}));
}

TEST(Functional, PaddingIdxMustBeARow) {
  const auto weight = at::ones({10, 3});
  for (const int64_t bad : {10, -11}) {
    const auto text =
        c10::str("Padding_idx must be within num_embeddings: ", bad, " is not in [-10, 10)");
    expect_error<c10::ValueError>(text, [&] {
      functional::embedding(longs({0}), weight, EmbeddingFuncOptions().padding_idx(bad));
    });
    EXPECT_THROW(functional::embedding_bag(longs({0}).view({1, 1}), weight,
                                           EmbeddingBagFuncOptions().padding_idx(bad)),
                 c10::Error);
  }
}

TEST(Functional, PerSampleWeightsInEveryMode) {
  const auto weight = at::tensor({1., 2., 4.}, at::kDouble).unsqueeze(1);
  const auto input = longs({0, 1, 2, 2}).view({2, 2});
  const auto options = EmbeddingBagFuncOptions().per_sample_weights(
      at::tensor({3., 1., .5, .25}, at::kDouble).view({2, 2}));
  auto mean = options, max = options;
  EXPECT_TRUE(close(functional::embedding_bag(input, weight, mean.mode(torch::kMean)),
                    at::tensor({2.5, 1.5}, at::kDouble).unsqueeze(1)));
  EXPECT_TRUE(close(functional::embedding_bag(input, weight, max.mode(torch::kMax)),
                    at::tensor({3., 2.}, at::kDouble).unsqueeze(1)));
}

}  // namespace
}  // namespace myemb
