// myemb::optim::fuse_in_backward: tables that backward() updates.

#include <myemb/functional.h>
#include <myemb/nn.h>
#include <myemb/optim.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/schedulers/step_lr.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "optim_testing.h"

namespace myemb {
namespace {

using optim::fuse_in_backward;
using optim::FusedTables;
using testing::close;
using testing::expect_error;
using testing::leaf;
using testing::longs;
using testing::Tensors;
using Loss = std::function<at::Tensor(const at::Tensor& table)>;

// A lookup with duplicates, and its sparse gradient.
at::Tensor looked_up(const at::Tensor& table, const at::Tensor& indices, bool sparse = true) {
  return functional::embedding(indices, table, functional::EmbeddingFuncOptions().sparse(sparse));
}

at::Tensor squares(const at::Tensor& rows) { return (rows * rows).sum(); }

// The same training, fused and not, gives the same table and stores a gradient or not.
template <typename Ours, typename Options>
void expect_fused_equals_step(const Options& options, const Loss& loss, const at::Tensor& table,
                              RoundingOptions rounding = {}) {
  const at::Tensor other = table.detach().clone().requires_grad_();
  Ours in_backward({table}, options, rounding), in_step({other}, options, rounding);
  fuse_in_backward(in_backward, {table});
  for (int step = 0; step < 5; ++step) {
    loss(table).backward();
    EXPECT_FALSE(table.grad().defined());
    in_backward.step();

    in_step.zero_grad();
    loss(other).backward();
    in_step.step();
  }
  EXPECT_TRUE(at::equal(table, other));
}

TEST(OptimFused, EqualsStep) {
  const Loss bags = [](const at::Tensor& table) {
    return squares(functional::embedding_bag(
        longs({1, 4, 1, 2, 2, 5}), table,
        functional::EmbeddingBagFuncOptions().offsets(longs({0, 3})).sparse(true)));
  };
  const Loss lookup = [](const at::Tensor& table) {
    return squares(looked_up(table, longs({3, 0, 3, 6})));
  };
  for (const Loss& loss : {bags, lookup}) {
    expect_fused_equals_step<optim::SGD>(SGDOptions(.1).momentum(.9).dampening(.5), loss,
                                         leaf({7, 3}));
    expect_fused_equals_step<optim::Adagrad>(AdagradOptions(.1).lr_decay(.1), loss, leaf({7, 3}));
    expect_fused_equals_step<optim::RowWiseAdagrad>(AdagradOptions(.1), loss, leaf({7, 3}));
    expect_fused_equals_step<optim::Adam>(AdamOptions(.1).eps(.1), loss, leaf({7, 3}));
    expect_fused_equals_step<optim::AdamW>(AdamWOptions(.1).amsgrad(true), loss, leaf({7, 3}));
  }
}

TEST(OptimFused, RoundsAsStepDoes) {
  const Loss loss = [](const at::Tensor& table) {
    return squares(looked_up(table, longs({3, 0})));
  };
  for (const Rounding rounding : {Rounding::Stochastic, Rounding::Split}) {
    const at::Tensor table = at::randn({7, 3}).to(at::kBFloat16).requires_grad_();
    expect_fused_equals_step<optim::SGD>(SGDOptions(1e-3), loss, table, {rounding, 3});
  }
}

// Integers: the order of additions does not matter.
TEST(OptimFused, TableThatIsUsedTwiceMakesOneStep) {
  const at::Tensor table = at::arange(21, at::kDouble).view({7, 3}).requires_grad_();
  const Loss twice = [](const at::Tensor& table) {
    return looked_up(table, longs({1, 2, 1})).sum() + (looked_up(table, longs({2, 5})) * 3).sum();
  };
  expect_fused_equals_step<optim::Adam>(AdamOptions(.1).eps(.1), twice,
                                        table.detach().clone().requires_grad_());
  optim::RowWiseAdagrad optimizer({table}, AdagradOptions(.1));
  fuse_in_backward(optimizer, {table});
  twice(table).backward();
  const auto& state = static_cast<const torch::optim::AdagradParamState&>(
      *optimizer.state().at(table.unsafeGetTensorImpl()));
  EXPECT_EQ(state.step(), 1);
  EXPECT_TRUE(at::equal(state.sum(), at::tensor({0., 4., 16., 0., 0., 9., 0.}, at::kDouble)));
}

TEST(OptimFused, DenseGradientBesideLookupsMakesADenseStep) {
  const Loss with_penalty = [](const at::Tensor& table) {
    return looked_up(table, longs({1, 2, 1}), /*sparse=*/false).sum() + table.sum() * 2;
  };
  expect_fused_equals_step<optim::Adam>(AdamOptions(.1).eps(.1), with_penalty, leaf({7, 3}));
}

TEST(OptimFused, RestOfTheModelIsServedByStepAndSchedulers) {
  const at::Tensor table = leaf({4, 2}), weight = leaf({2});
  const at::Tensor rows = table.detach().clone(), before = weight.detach().clone();
  optim::SGD optimizer({table, weight}, SGDOptions(1));
  torch::optim::StepLR rates(optimizer, 1, .5);
  fuse_in_backward(optimizer, {table});
  double sum_of_rates = 0;
  for (int step = 0; step < 3; ++step) {
    sum_of_rates += optimizer.param_groups()[0].options().get_lr();
    optimizer.zero_grad();
    (looked_up(table, longs({1})).sum() + weight.sum() * 3).backward();
    optimizer.step();
    rates.step();
  }
  EXPECT_LT(sum_of_rates, 3);
  rows[1] -= sum_of_rates;
  EXPECT_TRUE(close(table.detach(), rows));
  EXPECT_TRUE(close(weight.detach(), before - sum_of_rates * 3));
}

TEST(OptimFused, SecondDerivativesAreRefused) {
  const at::Tensor table = leaf({4, 2}), before = table.detach().clone();
  optim::SGD optimizer({table}, SGDOptions(1));
  fuse_in_backward(optimizer, {table});
  const at::Tensor loss = squares(looked_up(table, longs({1}), /*sparse=*/false));
  expect_error<c10::Error>("cannot be differentiated twice", [&] {
    loss.backward({}, /*retain_graph=*/true, /*create_graph=*/true);
  });
  EXPECT_TRUE(at::equal(table.detach(), before));
  const auto grads = torch::autograd::grad({loss}, {table});
  EXPECT_TRUE(close(grads[0][1], before[1] * 2));
  EXPECT_TRUE(at::equal(table.detach(), before));
  EXPECT_TRUE(optimizer.state().empty());
}

// What backward() does to a table of ones by this loss: updates it, or stores a gradient.
enum class Does { Update, Store };
Does backward_of(const at::Tensor& table) {
  const at::Tensor before = table.detach().clone();
  table.mutable_grad() = at::Tensor();
  looked_up(table, longs({1})).sum().backward();
  EXPECT_NE(table.grad().defined(), !at::equal(table.detach(), before));
  return table.grad().defined() ? Does::Store : Does::Update;
}

TEST(OptimFused, LastsUntilItIsRemoved) {
  const at::Tensor first = leaf({4, 2}), second = leaf({4, 2});
  optim::SGD optimizer({first, second}, SGDOptions(1));
  fuse_in_backward(optimizer, {first});  // dropping the handle changes nothing
  FusedTables fused = fuse_in_backward(optimizer, {second});
  EXPECT_EQ(backward_of(first), Does::Update);
  EXPECT_EQ(backward_of(second), Does::Update);
  fused.remove();
  fused.remove();
  EXPECT_EQ(backward_of(first), Does::Update);
  EXPECT_EQ(backward_of(second), Does::Store);
  fuse_in_backward(optimizer, {second});
  EXPECT_EQ(backward_of(second), Does::Update);
}

TEST(OptimFused, EndsWithTheOptimizer) {
  const at::Tensor table = leaf({4, 2});
  std::optional<FusedTables> fused;
  at::Tensor loss;
  {
    optim::SGD optimizer({table}, SGDOptions(1));
    fused = fuse_in_backward(optimizer, {table});
    loss = looked_up(table, longs({1})).sum();
  }
  loss.backward();
  EXPECT_TRUE(table.grad().defined());
  EXPECT_EQ(backward_of(table), Does::Store);
  fused->remove();
  optim::SGD another({table}, SGDOptions(1));
  fuse_in_backward(another, {table});
  EXPECT_EQ(backward_of(table), Does::Update);
}

TEST(OptimFused, FusesTheTablesOfAModule) {
  nn::Embedding embedding(5, 2);
  nn::EmbeddingBag bag(torch::nn::EmbeddingBagOptions(5, 2).mode(torch::kSum));
  nn::Embedding tied(nn::EmbeddingOptions(5, 2)._weight(embedding->weight));
  torch::nn::Embedding torchs(5, 2);
  torch::nn::EmbeddingBag torchs_bag(5, 2);
  nn::Embedding frozen = nn::Embedding::from_pretrained(at::ones({5, 2}));
  torch::nn::Linear linear(2, 2);
  const torch::nn::ModuleList model(torch::nn::ModuleList(embedding, frozen, tied), bag, torchs,
                                    torchs_bag, linear);
  optim::SGD optimizer(model->parameters(), SGDOptions(1));
  fuse_in_backward(optimizer, *model);
  for (const auto& table : {embedding->weight, bag->weight, torchs->weight, torchs_bag->weight}) {
    EXPECT_EQ(backward_of(table), Does::Update);
  }
  linear->forward(torchs->forward(longs({1}))).sum().backward();
  EXPECT_FALSE(torchs->weight.grad().defined());
  EXPECT_TRUE(linear->weight.grad().defined());

  nn::EmbeddingImpl alone(5, 2);  // no shared pointer holds it
  optim::SGD other(alone.parameters(), SGDOptions(1));
  fuse_in_backward(other, alone);
  EXPECT_EQ(backward_of(alone.weight), Does::Update);
}

TEST(OptimFused, RefusesWhatDoesNotFitAndFusesNothing) {
  const at::Tensor table = leaf({4, 2}), stranger = leaf({4, 2}), vector = leaf({4});
  const at::Tensor frozen = leaf({4, 2}).set_requires_grad(false);
  optim::SGD optimizer({table, vector, frozen}, SGDOptions(1));
  torch::optim::SGD torchs({table}, SGDOptions(1));
  expect_error<c10::TypeError>("an optimizer of myemb::optim, but got a torch::optim::SGD",
                               [&] { fuse_in_backward(torchs, {table}); });
  expect_error<c10::ValueError>("found no embedding table",
                                [&] { fuse_in_backward(optimizer, Tensors{}); });
  expect_error<c10::ValueError>("found no embedding table",
                                [&] { fuse_in_backward(optimizer, *torch::nn::Linear(2, 2)); });
  expect_error<c10::ValueError>("a table of shape [4, 2] is not among the optimizer's parameters",
                                [&] { fuse_in_backward(optimizer, {table, stranger}); });
  expect_error<c10::ValueError>("is not among the optimizer's parameters",
                                [&] { fuse_in_backward(optimizer, *nn::Embedding(4, 2)); });
  expect_error<c10::ValueError>("has to be 2-D",
                                [&] { fuse_in_backward(optimizer, {table, vector}); });
  expect_error<c10::Error>("a leaf that requires grad",
                           [&] { fuse_in_backward(optimizer, {table, frozen}); });
  expect_error<c10::Error>("fused already", [&] { fuse_in_backward(optimizer, {table, table}); });
  EXPECT_EQ(backward_of(table), Does::Store);

  fuse_in_backward(optimizer, {table});
  optim::SGD other({table}, SGDOptions(1));
  expect_error<c10::Error>("fused already", [&] { fuse_in_backward(other, {table}); });
  optimizer.param_groups()[0].params().clear();
  expect_error<c10::ValueError>("not among the parameters of its optimizer any more",
                                [&] { backward_of(table); });
}

}  // namespace
}  // namespace myemb
