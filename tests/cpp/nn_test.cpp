// myemb/nn.h. The first tests are those that PyTorch has for its own modules.

#include <myemb/nn.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/embedding.h>
#include <torch/serialize.h>

#include <memory>
#include <sstream>
#include <string>

#include "testing.h"

namespace myemb {
namespace {

using nn::Embedding;
using nn::EmbeddingBag;
using nn::EmbeddingBagFromPretrainedOptions;
using nn::EmbeddingBagOptions;
using nn::EmbeddingFromPretrainedOptions;
using nn::EmbeddingOptions;
using testing::close;
using testing::expect_error;
using testing::longs;

at::Tensor pretrained() { return at::tensor({1., 2.3, 3., 4., 5.1, 6.3}, at::kFloat).view({2, 3}); }

TEST(NnEmbedding, LooksUpAVector) {
  Embedding model(10, 2);
  EXPECT_TRUE(model->named_parameters().contains("weight"));
  EXPECT_EQ(model->weight.sizes(), at::IntArrayRef({10, 2}));
  EXPECT_TRUE(model->weight.requires_grad());
  const auto output = model(at::full({10}, 9, at::kLong));
  EXPECT_EQ(output.sizes(), at::IntArrayRef({10, 2}));
  output.sum().backward();
  EXPECT_EQ(model->weight.grad().numel(), 20);
  EXPECT_TRUE(at::equal(model->weight.grad()[9], at::full({2}, 10.)));
}

TEST(NnEmbedding, LooksUpAMatrix) {
  Embedding model(6, 4);
  const auto output = model(at::full({2, 3}, 5, at::kLong));
  EXPECT_EQ(output.sizes(), at::IntArrayRef({2, 3, 4}));
  output.sum().backward();
  EXPECT_EQ(model->weight.grad().numel(), 24);
}

TEST(NnEmbedding, FromPretrained) {
  const auto weight = pretrained();
  auto model = Embedding::from_pretrained(weight);
  EXPECT_TRUE(at::equal(model(longs({1})), weight.slice(0, 1)));
  EXPECT_FALSE(model->weight.requires_grad());
  EXPECT_EQ(model->weight.data_ptr(), weight.data_ptr());
}

TEST(NnEmbeddingBag, FromPretrained) {
  auto model = EmbeddingBag::from_pretrained(pretrained());
  EXPECT_TRUE(
      close(model(longs({1, 0}).view({1, 2})), at::tensor({2.5, 3.7, 4.65}).view({1, 3}), 1e-6));
}

TEST(NnEmbedding, PrettyPrint) {
  auto options = EmbeddingOptions(10, 2);
  EXPECT_EQ(c10::str(Embedding(options)),
            "myemb::nn::Embedding(num_embeddings=10, embedding_dim=2)");
  options.padding_idx(3).max_norm(2);
  EXPECT_EQ(c10::str(Embedding(options)),
            "myemb::nn::Embedding(num_embeddings=10, embedding_dim=2, padding_idx=3, max_norm=2)");
  options.norm_type(2.5).scale_grad_by_freq(true).sparse(true);
  EXPECT_EQ(c10::str(Embedding(options)),
            "myemb::nn::Embedding(num_embeddings=10, embedding_dim=2, padding_idx=3, max_norm=2, "
            "norm_type=2.5, "
            "scale_grad_by_freq=true, sparse=true)");
}

TEST(NnEmbeddingBag, PrettyPrintIsTorchs) {
  auto options = EmbeddingBagOptions(10, 2);
  const auto expect_same = [&] {
    const auto torchs = c10::str(torch::nn::EmbeddingBag(options));
    EXPECT_EQ(c10::str(EmbeddingBag(options)),
              "myemb" + torchs.substr(std::string("torch").size()));
  };
  expect_same();
  options.max_norm(2);
  expect_same();
  options.max_norm(2.25).norm_type(2.5).scale_grad_by_freq(true).sparse(true).mode(torch::kSum);
  expect_same();
  options.mode(torch::kMax).include_last_offset(true).padding_idx(-1);
  expect_same();
}

TEST(NnEmbedding, InitialisesAsTorchDoes) {
  at::manual_seed(3);
  const torch::nn::Embedding expected(EmbeddingOptions(10, 4).padding_idx(-2));
  at::manual_seed(3);
  const Embedding model(EmbeddingOptions(10, 4).padding_idx(-2));
  EXPECT_TRUE(at::equal(model->weight, expected->weight));
  EXPECT_EQ(*model->options.padding_idx(), 8);
  EXPECT_TRUE(at::equal(model->weight[8], at::zeros({4})));
  EmbeddingBag bag(EmbeddingBagOptions(10, 4).padding_idx(0));
  EXPECT_TRUE(at::equal(bag->weight[0], at::zeros({4})));
  bag->reset_parameters();
  EXPECT_TRUE(at::equal(bag->weight[0], at::zeros({4})));
  EXPECT_TRUE(bag->weight.requires_grad());
}

TEST(NnEmbedding, GivenTableKeepsItsPaddingRowAndIsShared) {
  const auto weight = at::ones({3, 2}).requires_grad_();
  const Embedding model(EmbeddingOptions(3, 2).padding_idx(1)._weight(weight));
  EXPECT_TRUE(model->weight.is_same(weight));
  EXPECT_TRUE(at::equal(model->weight, at::ones({3, 2})));
}

TEST(NnEmbedding, RefusesWhatDoesNotFit) {
  for (const int64_t bad : {10, -11}) {
    const auto text = c10::str("Padding_idx must be within num_embeddings: ", bad);
    expect_error<c10::ValueError>(text,
                                  [&] { Embedding(EmbeddingOptions(10, 2).padding_idx(bad)); });
    expect_error<c10::ValueError>(
        text, [&] { EmbeddingBag(EmbeddingBagOptions(10, 2).padding_idx(bad)); });
  }
  const auto shape = "Shape of weight does not match num_embeddings and embedding_dim";
  expect_error<c10::ValueError>(
      shape, [] { Embedding(EmbeddingOptions(3, 2)._weight(at::ones({2, 3}))); });
  expect_error<c10::ValueError>(
      shape, [] { EmbeddingBag(EmbeddingBagOptions(3, 2)._weight(at::ones({6}))); });
  const auto dimensions = "Embeddings parameter is expected to be 2-dimensional";
  expect_error<c10::ValueError>(dimensions, [] { Embedding::from_pretrained(at::ones({6})); });
  expect_error<c10::ValueError>(dimensions, [] { EmbeddingBag::from_pretrained(at::ones({6})); });
}

TEST(NnEmbedding, FromPretrainedPassesEveryOptionOn) {
  const auto model = Embedding::from_pretrained(pretrained(), EmbeddingFromPretrainedOptions()
                                                                  .freeze(false)
                                                                  .padding_idx(-1)
                                                                  .max_norm(3)
                                                                  .norm_type(1)
                                                                  .scale_grad_by_freq(true)
                                                                  .sparse(true));
  EXPECT_TRUE(model->weight.requires_grad());
  EXPECT_EQ(c10::str(model),
            "myemb::nn::Embedding(num_embeddings=2, embedding_dim=3, padding_idx=1, max_norm=3, "
            "norm_type=1, "
            "scale_grad_by_freq=true, sparse=true)");
}

TEST(NnEmbedding, FromPretrainedLeavesTheGivenTensorAlone) {
  const auto weight = pretrained().requires_grad_();
  auto model = Embedding::from_pretrained(weight);
  EXPECT_TRUE(weight.requires_grad());
  EXPECT_FALSE(model->weight.requires_grad());
}

TEST(NnEmbedding, FromPretrainedTakesIntegers) {
  auto model = Embedding::from_pretrained(pretrained().to(at::kLong));
  EXPECT_TRUE(at::equal(model(longs({1})), longs({4, 5, 6}).view({1, 3})));
}

// torch gives three bags here: its from_pretrained drops include_last_offset.
TEST(NnEmbeddingBag, FromPretrainedKeepsIncludeLastOffset) {
  auto model = EmbeddingBag::from_pretrained(
      pretrained(),
      EmbeddingBagFromPretrainedOptions().mode(torch::kSum).include_last_offset(true));
  EXPECT_TRUE(model->options.include_last_offset());
  const auto output = model(longs({0, 1, 1}), longs({0, 1, 3}));
  EXPECT_TRUE(close(output, at::stack({pretrained()[0], pretrained()[1] * 2})));
}

// torch drops the last bag here.
TEST(NnEmbeddingBag, MatrixInputIgnoresIncludeLastOffset) {
  EmbeddingBag model(EmbeddingBagOptions(10, 3).include_last_offset(true));
  EXPECT_EQ(model(longs({1, 2, 4, 5}).view({2, 2})).sizes(), at::IntArrayRef({2, 3}));
}

TEST(NnEmbeddingBag, ForwardTakesOffsetsAndWeights) {
  EmbeddingBag model(EmbeddingBagOptions(10, 3).mode(torch::kSum).padding_idx(2));
  const auto input = longs({1, 2, 4, 5});
  const auto output = model(input, longs({0, 3}), at::tensor({1.f, 2.f, 3.f, 4.f}));
  const auto& weight = model->weight;
  EXPECT_TRUE(close(output, at::stack({weight[1] + weight[4] * 3, weight[5] * 4}), 1e-6));
}

TEST(NnEmbedding, ForwardAppliesMaxNorm) {
  Embedding model(EmbeddingOptions(3, 4).max_norm(1).norm_type(1)._weight(at::ones({3, 4})));
  EXPECT_TRUE(close(model(longs({1})), at::full({1, 4}, .25), 1e-6));
  EXPECT_TRUE(close(model->weight.sum(1), at::tensor({4., 1., 4.}), 1e-6));
}

TEST(NnEmbedding, WorksInSequential) {
  torch::nn::Sequential model(Embedding(10, 3));
  EXPECT_EQ(model->forward(longs({1, 2})).sizes(), at::IntArrayRef({2, 3}));
  torch::nn::Sequential bags(EmbeddingBag(10, 3));
  EXPECT_EQ(bags->forward(longs({1, 2}).view({1, 2})).sizes(), at::IntArrayRef({1, 3}));
  EXPECT_EQ(bags->forward(longs({1, 2}), longs({0, 0})).sizes(), at::IntArrayRef({2, 3}));
}

template <typename Module>
void expect_own_copy(const Module& model) {
  const bool frozen = !model->weight.requires_grad();
  const auto copy = std::dynamic_pointer_cast<typename Module::ContainedType>(model->clone());
  ASSERT_NE(copy, nullptr);
  EXPECT_TRUE(at::equal(copy->weight, model->weight));
  EXPECT_FALSE(copy->weight.is_alias_of(model->weight));
  EXPECT_TRUE(copy->parameters()[0].is_same(copy->weight));
  EXPECT_EQ(copy->weight.requires_grad(), !frozen);
  EXPECT_EQ(model->weight.requires_grad(), !frozen);
  EXPECT_EQ(c10::str(Module(copy)), c10::str(model));
  const at::NoGradGuard no_grad;
  copy->weight.zero_();
  EXPECT_FALSE(at::equal(copy->weight, model->weight));
}

TEST(Nn, CloneIsACopy) {
  expect_own_copy(Embedding(EmbeddingOptions(10, 3).padding_idx(2)));
  expect_own_copy(EmbeddingBag(EmbeddingBagOptions(10, 3).mode(torch::kMax)));
}

// torch's clone shares the table with the original, and unfreezes both.
TEST(Nn, CloneOfAPretrainedModuleIsACopyAndStaysFrozen) {
  expect_own_copy(Embedding::from_pretrained(pretrained()));
  expect_own_copy(EmbeddingBag::from_pretrained(pretrained()));
  expect_own_copy(
      Embedding::from_pretrained(pretrained(), EmbeddingFromPretrainedOptions().freeze(false)));
}

TEST(Nn, CloneFollowsTheDtypeOfTheModule) {
  Embedding model(10, 3);
  model->to(at::kDouble);
  expect_own_copy(model);
}

TEST(Nn, CloneInsideOfAnotherModule) {
  const torch::nn::Sequential model(Embedding::from_pretrained(pretrained()), EmbeddingBag(3, 2));
  const auto copy = std::dynamic_pointer_cast<torch::nn::SequentialImpl>(model->clone());
  const auto before = model->parameters(), after = copy->parameters();
  ASSERT_EQ(after.size(), 2);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(at::equal(before[i], after[i]));
    EXPECT_FALSE(before[i].is_alias_of(after[i]));
    EXPECT_EQ(before[i].requires_grad(), after[i].requires_grad());
  }
}

template <typename Module>
void expect_round_trip(const Module& saved, Module loaded) {
  std::stringstream stream;
  torch::save(saved, stream);
  EXPECT_FALSE(at::equal(saved->weight, loaded->weight));
  torch::load(loaded, stream);
  EXPECT_TRUE(at::equal(saved->weight, loaded->weight));
}

TEST(Nn, SaveAndLoad) {
  expect_round_trip(Embedding(10, 3), Embedding(10, 3));
  expect_round_trip(EmbeddingBag(10, 3), EmbeddingBag(10, 3));
}

TEST(Nn, LoadsWhatTorchSaved) {
  const torch::nn::Embedding saved(10, 3);
  std::stringstream stream;
  torch::save(saved, stream);
  Embedding loaded(10, 3);
  torch::load(loaded, stream);
  EXPECT_TRUE(at::equal(saved->weight, loaded->weight));
}

}  // namespace
}  // namespace myemb
