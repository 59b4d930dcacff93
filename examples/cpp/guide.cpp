// The blocks of docs/cpp.md, one after the other: the page shows the marked sections of this file.
// Exits with 1 if one of them did not do what the page says.

#include <myemb/nn.h>
#include <myemb/ops.h>
#include <myemb/optim.h>
#include <torch/serialize.h>

#include <cstdlib>
#include <iostream>
#include <sstream>

namespace {

int failures = 0;

void expect(bool is_so, const char* what) {
  if (is_so) return;
  std::cout << "not so: " << what << "\n";
  ++failures;
}

void modules() {
  // --8<-- [start:modules]
  myemb::nn::Embedding table(torch::nn::EmbeddingOptions(1000, 64).padding_idx(0).max_norm(1.0));
  torch::Tensor rows = table(torch::tensor({{1, 2, 4, 5}, {4, 3, 2, 9}}));  // (2, 4, 64)

  myemb::nn::EmbeddingBag bags(torch::nn::EmbeddingBagOptions(1000, 64).mode(torch::kMean));
  const torch::Tensor indices = torch::tensor({1, 2, 4, 5, 4, 3, 2, 9});
  const torch::Tensor offsets = torch::tensor({0, 4});
  torch::Tensor means = bags(indices, offsets);  // (2, 64)
  means.backward(torch::randn_like(means));      // bags->weight.grad(), as in torch::nn
  // --8<-- [end:modules]
  expect(rows.sizes() == at::IntArrayRef{2, 4, 64} && means.sizes() == at::IntArrayRef{2, 64},
         "shapes of the modules");
  expect(torch::allclose(means, bags->weight.index({indices}).view({2, 4, 64}).mean(1)), "means");
  expect(bags->weight.grad().defined(), "a gradient");

  // --8<-- [start:archives]
  std::stringstream file;
  torch::save(bags, file);
  myemb::nn::EmbeddingBag loaded(1000, 64);
  torch::load(loaded, file);
  // --8<-- [end:archives]
  expect(torch::equal(loaded->weight, bags->weight), "what was saved is loaded");
}

void functions() {
  const torch::Tensor weight = torch::randn({10, 3});
  const torch::Tensor indices = torch::tensor({1, 2, 4, 5, 4, 3});
  const torch::Tensor offsets = torch::tensor({0, 4});
  // --8<-- [start:functions]
  namespace F = myemb::functional;
  torch::Tensor rows = F::embedding(indices, weight, F::EmbeddingFuncOptions().padding_idx(0));
  torch::Tensor sums = F::embedding_bag(
      indices, weight, F::EmbeddingBagFuncOptions().offsets(offsets).mode(torch::kSum));
  F::embedding_renorm_(weight, indices, /*max_norm=*/1.0);

  auto [maxima, positions] = myemb::embedding_bag_max(weight, indices, offsets);  // myemb/ops.h
  // --8<-- [end:functions]
  expect(torch::allclose(sums[1], rows[4] + rows[5]), "sums of rows");
  expect(weight.index({indices}).norm(2, 1).le(1).all().item<bool>(), "rows of norm 1");
  expect(positions.sizes() == at::IntArrayRef{2, 3} && maxima.sizes() == positions.sizes(),
         "maxima");
}

void errors() {
  const torch::Tensor weight = torch::randn({10, 3});
  // --8<-- [start:errors]
  try {
    myemb::embedding(weight, torch::tensor({1, 10}));
  } catch (const c10::IndexError& error) {
    std::cout << error.what_without_backtrace() << "\n";
    // index out of range in self: index 10 at position 1 is not in [0, 10)
  }
  // --8<-- [end:errors]
}

void tables() {
  const torch::Tensor films = torch::randn({1000, 16}), genres = torch::randn({50, 8});
  // --8<-- [start:tables]
  // Two features of two bags each: films {1, 2, 3} and {7}, genres {3} and {0, 49}.
  const torch::Tensor out = myemb::embedding_bag_tables(
      {films, genres}, torch::tensor({1, 2, 3, 7, 3, 0, 49}), torch::tensor({0, 3, 4, 5, 7}));
  // (2, 16 + 8)
  // --8<-- [end:tables]
  expect(torch::equal(out.slice(1, 16)[0], genres[3]), "a bag of one is its row");
}

void optimizers() {
  myemb::nn::EmbeddingBag bags(1000, 64);
  const torch::Tensor before = bags->weight.detach().clone();
  const torch::Tensor input = torch::tensor({{1, 2}, {2, 3}});
  {
    // --8<-- [start:optimizers]
    myemb::optim::RowWiseAdagrad tables({bags->weight}, /*lr=*/0.1);
    myemb::optim::fuse_in_backward(tables, *bags);
    torch::Tensor loss = bags(input).square().mean();
    loss.backward();  // bags->weight is updated, bags->weight.grad() undefined
    // --8<-- [end:optimizers]
  }
  expect(!bags->weight.grad().defined(), "no gradient is stored");
  const torch::Tensor changed = (bags->weight != before).any(1).nonzero().flatten();
  expect(torch::equal(changed, torch::tensor({1, 2, 3})), "the rows that were looked up changed");

  myemb::nn::EmbeddingBag halves(1000, 64);
  halves->to(torch::kBFloat16);
  // --8<-- [start:rounding]
  myemb::optim::RowWiseAdagrad exact({halves->weight}, /*lr=*/0.1, {myemb::Rounding::Split});
  // --8<-- [end:rounding]
  halves(input).to(torch::kFloat).square().mean().backward();
  exact.step();
}

}  // namespace

int main() {
  torch::manual_seed(0);
  modules();
  functions();
  errors();
  tables();
  optimizers();
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
