// Trains tables that backward() itself updates, with row-wise Adagrad: no gradient of theirs is
// stored, and their state is one number a row. A linear layer beside them has an optimizer of its
// own. Exits with 1 if the loss did not fall.

#include <myemb/nn.h>
#include <myemb/optim.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <cstdlib>
#include <iostream>

namespace {

constexpr int64_t kUsers = 200;
constexpr int64_t kFilms = 300;
constexpr int64_t kDim = 16;
constexpr int64_t kSamples = 2000;
constexpr int64_t kLength = 5;
constexpr int kSteps = 60;

// Scores a user, looked up, who has seen a bag of films.
class RecommenderImpl : public torch::nn::Module {
 public:
  RecommenderImpl() : torch::nn::Module("Recommender") {
    register_module("users", users);
    register_module("films", films);
    register_module("score", score);
  }

  torch::Tensor forward(const torch::Tensor& user, const torch::Tensor& bags) {
    return score(users(user) * films(bags)).squeeze(1);
  }

  myemb::nn::Embedding users{kUsers, kDim};
  myemb::nn::EmbeddingBag films{kFilms, kDim};
  torch::nn::Linear score{kDim, 1};
};
TORCH_MODULE(Recommender);

}  // namespace

int main() {
  torch::manual_seed(0);
  const auto user = torch::randint(0, kUsers, {kSamples}, torch::kInt64);
  const auto bags = torch::randint(0, kFilms, {kSamples, kLength}, torch::kInt64);
  const auto label = (Recommender()->forward(user, bags).detach() > 0).to(torch::kFloat);

  Recommender model;
  myemb::optim::RowWiseAdagrad tables({model->users->weight, model->films->weight}, 0.3);
  myemb::optim::Adam rest(model->score->parameters(), 0.05);
  myemb::optim::fuse_in_backward(tables, *model);

  double first = 0, last = 0;
  for (int step = 0; step <= kSteps; ++step) {
    rest.zero_grad();
    const auto loss =
        torch::nn::functional::binary_cross_entropy_with_logits(model->forward(user, bags), label);
    loss.backward();  // makes the steps of the tables
    rest.step();
    last = loss.item<double>();
    if (step == 0) first = last;
    if (step % 20 == 0) std::cout << "step " << step << ": loss " << last << "\n";
  }
  const bool stored =
      model->users->weight.grad().defined() || model->films->weight.grad().defined();
  std::cout << (stored ? "gradients of tables were stored\n"
                       : "no gradient of a table was stored\n");
  return last < 0.5 * first && !stored ? EXIT_SUCCESS : EXIT_FAILURE;
}
