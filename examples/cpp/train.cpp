// Trains an embedding and an embedding bag in a C++ program: with dense gradients (SGD, Adam), with
// sparse gradients (SGD, Adagrad), then saves and loads the model. Exits with 1 if anything did not
// come out.

#include <myemb/nn.h>
#include <torch/nn/functional/loss.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <string>

namespace {

constexpr int64_t kUsers = 200;
constexpr int64_t kFilms = 300;
constexpr int64_t kDim = 16;
constexpr int kSteps = 60;

// Scores a user, looked up, against the films that somebody has seen, averaged.
class RecommenderImpl : public torch::nn::Module {
 public:
  explicit RecommenderImpl(bool sparse)
      : torch::nn::Module("Recommender"),
        users(myemb::nn::EmbeddingOptions(kUsers, kDim).sparse(sparse)),
        films(myemb::nn::EmbeddingBagOptions(kFilms, kDim).mode(torch::kMean).sparse(sparse)) {
    register_module("users", users);
    register_module("films", films);
  }

  torch::Tensor forward(const torch::Tensor& user, const torch::Tensor& film,
                        const torch::Tensor& offsets) {
    return (users(user) * films(film, offsets)).sum(1);
  }

  myemb::nn::Embedding users;
  myemb::nn::EmbeddingBag films;
};
TORCH_MODULE(Recommender);

struct Samples {
  torch::Tensor user, film, offsets, label;
};

// Bags of one to eight films, liked or not by a user of a model that is not told.
Samples draw_samples(int64_t count) {
  const auto lengths = torch::randint(1, 9, {count}, torch::kInt64);
  const auto offsets = lengths.cumsum(0) - lengths;
  const auto user = torch::randint(0, kUsers, {count}, torch::kInt64);
  const auto film = torch::randint(0, kFilms, {lengths.sum().item<int64_t>()}, torch::kInt64);
  const torch::NoGradGuard no_grad;
  Recommender truth(/*sparse=*/false);
  return {user, film, offsets, (truth->forward(user, film, offsets) > 0).to(torch::kFloat)};
}

double mean_loss(Recommender& model, const Samples& samples, torch::optim::Optimizer* optimizer) {
  const auto score = model->forward(samples.user, samples.film, samples.offsets);
  const auto loss = torch::nn::functional::binary_cross_entropy_with_logits(score, samples.label);
  if (optimizer != nullptr) {
    optimizer->zero_grad();
    loss.backward();
    optimizer->step();
  }
  return loss.item<double>();
}

bool train(const std::string& name, Recommender& model, torch::optim::Optimizer& optimizer,
           const Samples& samples) {
  const double first = mean_loss(model, samples, nullptr);
  for (int step = 0; step < kSteps; ++step) mean_loss(model, samples, &optimizer);
  const double last = mean_loss(model, samples, nullptr);
  const bool fell = last < 0.8 * first;
  std::cout << std::left << std::setw(16) << name << std::fixed << std::setprecision(3) << "loss "
            << first << " -> " << last << (fell ? "" : "  did not fall") << "\n";
  return fell;
}

bool saves_and_loads(Recommender& model, const Samples& samples) {
  const auto path = std::filesystem::temp_directory_path() / "myemb-example.pt";
  torch::save(model, path.string());
  Recommender loaded(/*sparse=*/false);
  torch::load(loaded, path.string());
  std::filesystem::remove(path);
  const torch::NoGradGuard no_grad;
  const bool same = torch::equal(model->forward(samples.user, samples.film, samples.offsets),
                                 loaded->forward(samples.user, samples.film, samples.offsets));
  std::cout << "saved and loaded: " << (same ? "the same scores" : "other scores") << "\n";
  return same;
}

}  // namespace

int main() {
  torch::manual_seed(0);
  const Samples samples = draw_samples(2000);
  Recommender dense(/*sparse=*/false), adam(false), sparse(/*sparse=*/true), adagrad(true);
  std::cout << adam << "\n";

  torch::optim::SGD dense_sgd(dense->parameters(), torch::optim::SGDOptions(100.0));
  torch::optim::Adam dense_adam(adam->parameters(), torch::optim::AdamOptions(0.05));
  torch::optim::SGD sparse_sgd(sparse->parameters(), torch::optim::SGDOptions(100.0));
  torch::optim::Adagrad sparse_adagrad(adagrad->parameters(), torch::optim::AdagradOptions(0.3));

  bool good = train("SGD", dense, dense_sgd, samples);
  good &= train("Adam", adam, dense_adam, samples);
  good &= train("SGD, sparse", sparse, sparse_sgd, samples);
  good &= train("Adagrad, sparse", adagrad, sparse_adagrad, samples);
  good &= saves_and_loads(adam, samples);
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
