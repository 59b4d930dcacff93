// Archives of myemb/optim.h: training goes on as if it had not been interrupted.

#include <myemb/optim.h>
#include <torch/serialize.h>

#include <memory>
#include <sstream>
#include <vector>

#include "optim_testing.h"

namespace myemb {
namespace {

using testing::close;
using testing::copies;
using testing::expect_error;
using testing::leaf;
using testing::Tensors;
using torch::optim::OptimizerParamGroup;

constexpr int kSteps = 20;

// Steps [begin, end) of a training that depends on the step alone.
void train(torch::optim::Optimizer& optimizer, int begin, int end) {
  for (int step = begin; step < end; ++step) {
    at::manual_seed(step);
    for (const auto& group : optimizer.param_groups()) {
      for (const at::Tensor& param : group.params()) {
        param.mutable_grad() = at::randn(param.sizes(), at::kDouble).to(param.scalar_type());
      }
    }
    optimizer.step();
  }
}

template <typename From, typename To>
void save_and_load(const From& from, To& to) {
  std::stringstream stream;
  torch::save(from, stream);
  torch::load(to, stream);
}

template <typename Ours, typename Options>
void expect_resumes(const Options& options, RoundingOptions rounding = {}) {
  const Tensors whole{at::randn({5, 9}).to(at::kBFloat16).requires_grad_(),
                      at::randn({4, 3}).requires_grad_()};
  const Tensors first = copies(whole);
  Ours uninterrupted(whole, options, rounding);
  train(uninterrupted, 0, kSteps);

  Ours before(first, options, rounding);
  train(before, 0, kSteps / 2);
  const Tensors second = copies(first);
  Ours after(second, Options(3.));  // everything else is in the archive
  save_and_load(before, after);
  train(after, kSteps / 2, kSteps);
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_TRUE(at::equal(whole[i], second[i])) << "parameter " << i;
  }
}

TEST(OptimArchive, TrainingGoesOn) {
  for (const RoundingOptions rounding :
       {RoundingOptions{}, RoundingOptions{Rounding::Stochastic, 7},
        RoundingOptions{Rounding::Split}}) {
    expect_resumes<optim::SGD>(SGDOptions(1e-3), rounding);
    expect_resumes<optim::SGD>(SGDOptions(1e-3).momentum(.9).dampening(.5), rounding);
    expect_resumes<optim::Adagrad>(AdagradOptions(1e-3).lr_decay(.1), rounding);
    expect_resumes<optim::RowWiseAdagrad>(AdagradOptions(1e-3).lr_decay(.1), rounding);
    expect_resumes<optim::Adam>(AdamOptions(1e-3).amsgrad(true), rounding);
    expect_resumes<optim::AdamW>(AdamWOptions(1e-3).amsgrad(true), rounding);
  }
}

// The first half by one optimizer, the second by the other, against Reference throughout.
template <typename First, typename Second, typename Reference, typename Options>
void expect_takes_over(const Options& options) {
  // torch's states have the strides of their parameter.
  const at::Tensor strided = leaf({2, 3, 4}).detach().permute({2, 0, 1}).requires_grad_();
  const Tensors whole{leaf({5, 9}), leaf({4}), strided}, first = copies(whole);
  Reference uninterrupted(whole, options);
  train(uninterrupted, 0, kSteps);

  First before(first, options);
  train(before, 0, kSteps / 2);
  const Tensors second = copies(first);
  Second after(second, Options(3.));
  save_and_load(before, after);
  train(after, kSteps / 2, kSteps);
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_TRUE(close(second[i].detach(), whole[i].detach())) << "parameter " << i;
  }
}

template <typename Ours, typename Torchs, typename Options>
void expect_torch_and_ours_take_over(const Options& options) {
  expect_takes_over<Torchs, Ours, Torchs>(options);
  expect_takes_over<Ours, Torchs, Torchs>(options);
}

TEST(OptimArchive, TorchLoadsOursAndWeLoadTorchs) {
  const auto sgd = SGDOptions(.1).momentum(.9).dampening(.5);
  expect_torch_and_ours_take_over<optim::SGD, torch::optim::SGD>(sgd);
  expect_torch_and_ours_take_over<optim::Adagrad, torch::optim::Adagrad>(
      AdagradOptions(.1).lr_decay(.1));
  expect_torch_and_ours_take_over<optim::Adam, torch::optim::Adam>(AdamOptions(.1).amsgrad(true));
  expect_torch_and_ours_take_over<optim::AdamW, torch::optim::AdamW>(
      AdamWOptions(.1).amsgrad(true));
}

TEST(OptimArchive, StatesOfTorchGetTheAccumulatorType) {
  const at::Tensor table = at::ones({3, 2}, at::kBFloat16).requires_grad_();
  const at::Tensor other = table.detach().clone().requires_grad_();
  torch::optim::Adagrad torchs({table}, AdagradOptions(.1));
  train(torchs, 0, 1);
  optim::Adagrad ours({other}, AdagradOptions(.1));
  save_and_load(torchs, ours);
  train(ours, 1, 2);
  const auto& state = static_cast<const torch::optim::AdagradParamState&>(
      *ours.state().at(other.unsafeGetTensorImpl()));
  EXPECT_EQ(state.sum().scalar_type(), at::kFloat);
  EXPECT_EQ(state.step(), 2);
}

TEST(OptimArchive, StatesThatDoNotFitAreRefused) {
  const at::Tensor table = leaf({3, 2}), other = leaf({3, 2}), before = other.detach().clone();
  optim::Adagrad full({table}, AdagradOptions(.1));
  train(full, 0, 1);
  optim::RowWiseAdagrad row_wise({other}, AdagradOptions(.1));
  save_and_load(full, row_wise);
  expect_error<c10::Error>("state[0] has to be [3]", [&] { train(row_wise, 1, 2); });
  EXPECT_TRUE(at::equal(other.detach(), before));
}

TEST(OptimArchive, LoadDropsStatesThatAreNotInTheArchive) {
  const Tensors params{leaf({3, 2})};
  const optim::Adam fresh(copies(params), AdamOptions(.5));
  optim::Adam trained(params);
  train(trained, 0, 3);
  save_and_load(fresh, trained);
  EXPECT_TRUE(trained.state().empty());
  EXPECT_EQ(trained.param_groups()[0].options().get_lr(), .5);
}

TEST(OptimArchive, LoadThatThrowsChangesNothing) {
  const auto groups = [](std::vector<size_t> sizes) {
    std::vector<OptimizerParamGroup> made;
    for (const size_t size : sizes) {
      Tensors params;
      for (size_t i = 0; i < size; ++i) params.push_back(leaf({3, 2}));
      made.emplace_back(params);
    }
    return made;
  };
  optim::Adam saved(groups({1, 1}), AdamOptions(.5));
  optim::Adam trained(groups({1, 2}), AdamOptions(.1));
  train(saved, 0, 1);
  train(trained, 0, 3);
  const at::Tensor first = trained.param_groups()[0].params()[0];
  const auto* const state = trained.state().at(first.unsafeGetTensorImpl()).get();
  expect_error<c10::Error>("a different size", [&] { save_and_load(saved, trained); });
  EXPECT_EQ(trained.state().size(), 3);
  EXPECT_EQ(trained.state().at(first.unsafeGetTensorImpl()).get(), state);
  EXPECT_EQ(trained.param_groups()[0].options().get_lr(), .1);
}

TEST(OptimArchive, CloneOfAStateHasItsLowHalves) {
  optim::SGDParamState state;
  state.step(3).low_halves(at::ones({2}, at::kShort));
  const auto copy = state.clone();
  const auto& same = dynamic_cast<const optim::SGDParamState&>(*copy);
  EXPECT_EQ(same.step(), 3);
  EXPECT_TRUE(same.low_halves().is_same(state.low_halves()));
}

}  // namespace
}  // namespace myemb
