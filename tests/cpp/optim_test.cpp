// The steps of myemb/optim.h, against torch::optim in float64, and their archives.

#include <myemb/optim.h>
#include <torch/optim/schedulers/step_lr.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "optim_testing.h"

namespace myemb {
namespace {

using testing::close;
using testing::copies;
using testing::expect_error;
using testing::leaf;
using testing::longs;
using testing::Tensors;
using torch::optim::OptimizerParamGroup;

constexpr int kSteps = 20;

void set_gradient(const at::Tensor& param, const at::Tensor& grad) { param.mutable_grad() = grad; }

// A table, a vector, a number, a tensor and two that are not contiguous.
Tensors parameters() {
  return {leaf({7, 3}),
          leaf({5}),
          leaf({}),
          leaf({2, 3, 4}),
          leaf({3, 4}).detach().t().requires_grad_(),
          leaf({2, 3, 4}).detach().permute({2, 0, 1}).requires_grad_()};
}

template <typename Ours, typename Torchs, typename Options>
void expect_torchs_steps(const Options& options) {
  const Tensors actual = parameters(), expected = copies(actual);
  Ours ours(actual, options);
  Torchs torchs(expected, options);
  for (int step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < actual.size(); ++i) {
      const bool has_gradient = (step + i) % 4 != 0;
      const at::Tensor grad = has_gradient ? at::randn_like(actual[i].detach()) : at::Tensor();
      set_gradient(actual[i], grad);
      set_gradient(expected[i], grad);
    }
    ours.step();
    torchs.step();
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(close(actual[i].detach(), expected[i].detach())) << "parameter " << i;
  }
}

TEST(OptimSGD, MakesTorchsSteps) {
  const auto expect_same = expect_torchs_steps<optim::SGD, torch::optim::SGD, SGDOptions>;
  expect_same(SGDOptions(.1));
  expect_same(SGDOptions(.1).weight_decay(.01));
  expect_same(SGDOptions(.1).momentum(.9).dampening(.3).weight_decay(.01));
  expect_same(SGDOptions(.1).momentum(.9).nesterov(true));
}

TEST(OptimAdagrad, MakesTorchsSteps) {
  const auto expect_same =
      expect_torchs_steps<optim::Adagrad, torch::optim::Adagrad, AdagradOptions>;
  expect_same({});
  expect_same(
      AdagradOptions(.1).lr_decay(.2).weight_decay(.01).initial_accumulator_value(.5).eps(1e-3));
}

TEST(OptimAdam, MakesTorchsSteps) {
  const auto expect_same = expect_torchs_steps<optim::Adam, torch::optim::Adam, AdamOptions>;
  expect_same({});
  expect_same(AdamOptions(.1).betas({.7, .9}).eps(.1).weight_decay(.01).amsgrad(true));
}

TEST(OptimAdamW, MakesTorchsSteps) {
  const auto expect_same = expect_torchs_steps<optim::AdamW, torch::optim::AdamW, AdamWOptions>;
  expect_same({});
  expect_same(AdamWOptions(.1).betas({.7, .9}).eps(.1).weight_decay(.1).amsgrad(true));
}

// Entries for these rows, each more than once, and what they sum up to.
struct SparseGradient {
  at::Tensor sparse, rows_summed;
};

SparseGradient sparse_gradient(const at::Tensor& rows, at::IntArrayRef shape,
                               at::ScalarType type = at::kDouble) {
  const at::Tensor lookups = at::cat({rows, rows.flip(0), rows.slice(0, 1)});
  const at::Tensor values = at::randn({lookups.size(0), shape[1]}, type);
  const at::Tensor sparse = at::sparse_coo_tensor(lookups.unsqueeze(0), values, shape);
  return {sparse, sparse.to_dense().index_select(0, rows)};
}

// Each step is that of `reference` on the sub-table of the rows that have entries.
template <typename Ours, typename Options, typename Reference>
void expect_steps_of_rows(const Options& options, const Reference& reference) {
  const at::Tensor rows = longs({1, 4, 5, 7});
  const at::Tensor table = leaf({9, 3}), before = table.detach().clone();
  const at::Tensor sub_table = before.index_select(0, rows).requires_grad_();
  Ours ours({table}, options);
  auto step_of_reference = reference(sub_table, options);
  for (int step = 0; step < kSteps; ++step) {
    const auto [sparse, summed] = sparse_gradient(rows, table.sizes());
    set_gradient(table, sparse);
    ours.step();
    step_of_reference(summed);
  }
  EXPECT_TRUE(close(table.detach(), before.index_copy(0, rows, sub_table.detach())));
}

// An optimizer of torch as a reference.
template <typename Torchs>
auto torchs_on(const at::Tensor& table, const auto& options) {
  return
      [table, torchs = std::make_shared<Torchs>(Tensors{table}, options)](const at::Tensor& grad) {
        set_gradient(table, grad);
        torchs->step();
      };
}

TEST(Optim, SparseStepsAreTorchsOnTheRowsWithEntries) {
  expect_steps_of_rows<optim::SGD>(SGDOptions(.1).momentum(.9).dampening(.3).weight_decay(.1),
                                   torchs_on<torch::optim::SGD, SGDOptions>);
  expect_steps_of_rows<optim::Adagrad>(AdagradOptions(.1).lr_decay(.2).weight_decay(.1),
                                       torchs_on<torch::optim::Adagrad, AdagradOptions>);
  expect_steps_of_rows<optim::AdamW>(AdamWOptions(.1).eps(.1).amsgrad(true),
                                     torchs_on<torch::optim::AdamW, AdamWOptions>);
}

// As its table of rows does; strides and states included.
TEST(Optim, SparseStepsOfAnyShapeAreThoseOfRows) {
  const at::Tensor vector = leaf({9}), cube = leaf({9, 2, 3});
  const at::Tensor strided = leaf({2, 3, 9}).detach().permute({2, 0, 1}).requires_grad_();
  const Tensors params{vector, cube, strided};
  Tensors tables;
  for (const at::Tensor& param : params) {
    tables.push_back(param.detach().reshape({9, -1}).clone().requires_grad_());
  }
  const auto options = AdamOptions(.1).amsgrad(true);
  optim::Adam adam(params, options), of_tables(tables, options);
  for (int step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < params.size(); ++i) {
      const at::Tensor grad = sparse_gradient(longs({1, 4, 7}), tables[i].sizes()).sparse;
      c10::DimVector values(params[i].sizes());
      values[0] = grad._nnz();
      set_gradient(tables[i], grad);
      set_gradient(params[i], at::sparse_coo_tensor(grad._indices(), grad._values().view(values),
                                                    params[i].sizes()));
    }
    adam.step();
    of_tables.step();
  }
  for (size_t i = 0; i < params.size(); ++i) {
    EXPECT_TRUE(at::equal(params[i].reshape({9, -1}), tables[i])) << "parameter " << i;
  }
}

// Python's torch.optim.SparseAdam.
TEST(OptimAdam, SparseStepsAddEpsBeforeTheCorrection) {
  const auto sparse_adam = [](const at::Tensor& table, const AdamOptions& options) {
    const auto m = at::zeros_like(table), v = at::zeros_like(table);
    return [=, step = 0](const at::Tensor& grad) mutable {
      const at::NoGradGuard no_grad;
      const auto [beta1, beta2] = options.betas();
      ++step;
      m.mul_(beta1).add_(grad, 1 - beta1);
      v.mul_(beta2).add_(grad * grad, 1 - beta2);
      const double lr =
          options.lr() * std::sqrt(1 - std::pow(beta2, step)) / (1 - std::pow(beta1, step));
      table.sub_(m / (v.sqrt() + options.eps()), lr);
    };
  };
  expect_steps_of_rows<optim::Adam>(AdamOptions(.1).eps(.1), sparse_adam);
}

TEST(OptimRowWiseAdagrad, AccumulatesTheMeanSquareOfARow) {
  const auto row_wise = [](const at::Tensor& table, const AdagradOptions& options) {
    const auto sum = at::full({table.size(0), 1}, options.initial_accumulator_value(), at::kDouble);
    return [=, step = 0](const at::Tensor& given) mutable {
      const at::NoGradGuard no_grad;
      const at::Tensor grad = given + table * options.weight_decay();
      sum.add_((grad * grad).mean(1, /*keepdim=*/true));
      const double lr = options.lr() / (1 + step++ * options.lr_decay());
      table.sub_(grad / (sum.sqrt() + options.eps()), lr);
    };
  };
  const auto options =
      AdagradOptions(.1).lr_decay(.2).weight_decay(.1).initial_accumulator_value(.5).eps(1e-3);
  expect_steps_of_rows<optim::RowWiseAdagrad>(options, row_wise);

  const at::Tensor table = leaf({4, 3});
  optim::RowWiseAdagrad optimizer({table}, options);
  EXPECT_TRUE(optimizer.state().empty());
  set_gradient(table, at::randn({4, 3}, at::kDouble));
  optimizer.step();
  const auto& state = static_cast<const torch::optim::AdagradParamState&>(
      *optimizer.state().at(table.unsafeGetTensorImpl()));
  EXPECT_EQ(state.sum().sizes(), at::IntArrayRef({4}));
  EXPECT_EQ(state.step(), 1);
}

TEST(Optim, GroupsHaveTheirOwnOptions) {
  const Tensors actual = parameters(), expected = copies(actual);
  const auto groups = [](const Tensors& params) {
    std::vector<OptimizerParamGroup> made;
    made.emplace_back(Tensors(params.begin(), params.begin() + 2));
    made.emplace_back(Tensors(params.begin() + 2, params.end()),
                      std::make_unique<AdagradOptions>(AdagradOptions(.5).weight_decay(.1)));
    return made;
  };
  optim::Adagrad ours(groups(actual), AdagradOptions(.1).lr_decay(.3));
  torch::optim::Adagrad torchs(groups(expected), AdagradOptions(.1).lr_decay(.3));
  torch::optim::StepLR our_rates(ours, 3, .5), torchs_rates(torchs, 3, .5);
  for (int step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < actual.size(); ++i) {
      const at::Tensor grad = at::randn_like(actual[i].detach());
      set_gradient(actual[i], grad);
      set_gradient(expected[i], grad);
    }
    ours.step();
    our_rates.step();
    torchs.step();
    torchs_rates.step();
  }
  EXPECT_LT(ours.param_groups()[1].options().get_lr(), .01);
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(close(actual[i].detach(), expected[i].detach())) << "parameter " << i;
  }
}

TEST(Optim, GroupsMayBeAddedLater) {
  const at::Tensor first = leaf({3, 2}), second = leaf({2, 2}), before = second.detach().clone();
  optim::Adagrad optimizer({first}, AdagradOptions(.1));
  optimizer.add_param_group(OptimizerParamGroup(Tensors{second}));
  set_gradient(second, at::ones({2, 2}, at::kDouble));
  optimizer.step();
  EXPECT_TRUE(close(second.detach(), before - .1, 1e-9));
}

TEST(Optim, ClosureIsDifferentiatedAndItsLossReturned) {
  const at::Tensor table = leaf({3, 2}), before = table.detach().clone();
  optim::SGD sgd({table}, SGDOptions(.5));
  torch::optim::Optimizer& optimizer = sgd;
  EXPECT_FALSE(optimizer.step().defined());
  const at::NoGradGuard no_grad;
  const at::Tensor loss = optimizer.step([&] {
    optimizer.zero_grad();
    const at::Tensor sum = table.sum();
    sum.backward();
    return sum;
  });
  EXPECT_TRUE(close(loss, before.sum()));
  EXPECT_TRUE(close(table, before - .5));
}

// Tables in 16 bits.

at::Tensor table_of(at::ScalarType type) {
  return at::randn({6, 5}).to(at::kBFloat16).to(type).requires_grad_();
}

at::Tensor joined(const at::Tensor& high, const at::Tensor& low) {
  const at::Tensor bits = high.detach().view(at::kShort).to(at::kInt) * 65536 + low.to(at::kInt);
  return bits.view(at::kFloat);
}

template <typename State, typename Ours, typename Options>
void expect_split_equals_float(const Options& options) {
  const at::Tensor half = table_of(at::kBFloat16);
  const at::Tensor full = half.detach().to(at::kFloat).requires_grad_();
  Ours split({half}, options, RoundingOptions{Rounding::Split}), exact({full}, options);
  for (int step = 0; step < kSteps; ++step) {
    // One entry a row: sums are rounded to the type of the gradient.
    const at::Tensor grad = at::randn({6, 5}).to(at::kBFloat16);
    set_gradient(half, grad);
    set_gradient(full, grad.to(at::kFloat));
    split.step();
    exact.step();
  }
  const auto& state = static_cast<const State&>(*split.state().at(half.unsafeGetTensorImpl()));
  EXPECT_TRUE(at::equal(joined(half, state.low_halves()), full.detach()));
}

TEST(Optim, SplitEqualsFloat) {
  expect_split_equals_float<optim::SGDParamState, optim::SGD>(SGDOptions(.01).momentum(.9));
  expect_split_equals_float<optim::AdagradParamState, optim::Adagrad>(AdagradOptions(.01));
  expect_split_equals_float<optim::AdagradParamState, optim::RowWiseAdagrad>(AdagradOptions(.01));
  expect_split_equals_float<optim::AdamParamState, optim::Adam>(AdamOptions(.01));
  expect_split_equals_float<optim::AdamWParamState, optim::AdamW>(AdamWOptions(.01));
}

TEST(Optim, StatesOf16BitTablesAreFloat) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    const at::Tensor table = at::ones({2, 3}, type).requires_grad_();
    optim::Adagrad optimizer({table}, AdagradOptions(.1));
    for (int step = 0; step < 2; ++step) {
      // 1 + 2^-12 has no place in 16 bits.
      set_gradient(table, at::full({2, 3}, step == 0 ? 1. : 0x1p-6, type));
      optimizer.step();
    }
    const auto& state = static_cast<const torch::optim::AdagradParamState&>(
        *optimizer.state().at(table.unsafeGetTensorImpl()));
    EXPECT_EQ(state.sum().scalar_type(), at::kFloat);
    EXPECT_TRUE(at::equal(state.sum(), at::full({2, 3}, 1 + 0x1p-12)));
  }
}

// Each update is a quarter of what nearest rounding would notice.
TEST(OptimSGD, StochasticRoundingKeepsTheMeanAndItsSeed) {
  const auto trained = [](RoundingOptions rounding) {
    const at::Tensor table = at::ones({64, 64}, at::kBFloat16).requires_grad_();
    optim::SGD optimizer({table}, SGDOptions(0x1p-10), rounding);
    for (int step = 0; step < 32; ++step) {
      set_gradient(table, at::full({64, 64}, -1, at::kBFloat16));
      optimizer.step();
    }
    return table.detach().to(at::kDouble);
  };
  EXPECT_TRUE(at::equal(trained({}), at::ones({64, 64}, at::kDouble)));
  const at::Tensor random = trained({Rounding::Stochastic, 1});
  EXPECT_NEAR(random.mean().item<double>(), 1 + 0x1p-5, 1e-3);
  EXPECT_LT(random.std().item<double>(), .02);  // steps draw anew
  EXPECT_TRUE(at::equal(random, trained({Rounding::Stochastic, 1})));
  EXPECT_FALSE(at::equal(random, trained({Rounding::Stochastic, 2})));
}

TEST(Optim, RefusesWhatDoesNotFitAndChangesNothing) {
  expect_error<c10::Error>("Invalid learning rate",
                           [] { optim::SGD({leaf({2})}, SGDOptions(-1)); });
  expect_error<c10::Error>("Invalid epsilon",
                           [] { optim::Adam({leaf({2})}, AdamOptions().eps(-1)); });
  expect_error<c10::ValueError>("Invalid seed", [] {
    optim::SGD({leaf({2})}, SGDOptions(1), RoundingOptions{Rounding::Stochastic, 1ull << 63});
  });
  expect_error<c10::Error>("non-leaf", [] { optim::SGD({leaf({2}) * 2}, SGDOptions(1)); });

  const auto expect_unchanged = [](torch::optim::Optimizer& optimizer) {
    const at::Tensor table = optimizer.param_groups()[0].params()[0];
    const at::Tensor before = table.detach().clone();
    const int64_t version = table._version();
    EXPECT_ANY_THROW(optimizer.step());
    EXPECT_TRUE(at::equal(table.detach(), before));
    EXPECT_EQ(table._version(), version);
    EXPECT_TRUE(optimizer.state().empty());
  };
  const at::Tensor table = leaf({3, 2});
  optim::Adam adam({table});
  set_gradient(table, at::_sparse_coo_tensor_unsafe(longs({1, 3}).unsqueeze(0),
                                                    at::ones({2, 2}, at::kDouble), {3, 2}));
  expect_error<c10::IndexError>("3", [&] { adam.step(); });
  expect_unchanged(adam);

  const at::Tensor vector = leaf({3});
  optim::RowWiseAdagrad row_wise({vector});
  set_gradient(vector, at::ones({3}, at::kDouble));
  expect_error<c10::ValueError>("RowWiseAdagrad is for tables of rows", [&] { row_wise.step(); });
  expect_unchanged(row_wise);

  const at::Tensor cube = leaf({3, 2, 2});
  optim::SGD sgd({cube}, SGDOptions(.1).momentum(.5));
  set_gradient(cube, at::ones({3, 2, 2}, at::kDouble).to_sparse(/*sparse_dim=*/2));
  expect_error<c10::Error>("one of rows (sparse_dim 1), but that of a parameter of shape [3, 2, 2]",
                           [&] { sgd.step(); });
  expect_unchanged(sgd);

  const at::Tensor half = table_of(at::kHalf);
  optim::SGD split({half}, SGDOptions(.1), RoundingOptions{Rounding::Split});
  set_gradient(half, at::ones({6, 5}, at::kHalf));
  expect_error<c10::Error>("rounding split is for BFloat16", [&] { split.step(); });
  expect_unchanged(split);
}

}  // namespace
}  // namespace myemb
