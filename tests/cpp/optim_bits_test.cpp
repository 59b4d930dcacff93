// The optimizers of C++ make the steps of those of Python, bit by bit:
// tests/python/test_optim_cpp.py trains the same tables and expects the same checksums.

#include <myemb/optim.h>

#include "optim_testing.h"

namespace myemb {
namespace {

template <typename Ours, typename Options>
int64_t checksum_of_training(const Options& options) {
  const at::Tensor table = ((at::arange(35, at::kFloat) - 17) / 16).view({7, 5}).requires_grad_();
  Ours optimizer({table}, options);
  const at::Tensor rows = testing::longs({1, 4, 1}).unsqueeze(0);
  for (int step = 0; step < 10; ++step) {
    const at::Tensor grad =
        ((at::arange(35, at::kLong) * 7 + step * 5).remainder(23) - 11).view({7, 5}) / 8;
    table.mutable_grad() =
        step % 2 == 0 ? grad : at::sparse_coo_tensor(rows, grad.slice(0, 0, 3), {7, 5});
    optimizer.step();
  }
  const at::Tensor bits = table.detach().view(at::kInt).flatten().to(at::kLong);
  return (bits * at::arange(1, 36, at::kLong)).sum().item<int64_t>();
}

TEST(OptimBits, ArePythons) {
  EXPECT_EQ(
      checksum_of_training<optim::SGD>(SGDOptions(.1).momentum(.9).dampening(.3).weight_decay(.01)),
      337330259267);
  const auto adagrad =
      AdagradOptions(.1).lr_decay(.2).weight_decay(.01).initial_accumulator_value(.5).eps(1e-3);
  EXPECT_EQ(checksum_of_training<optim::Adagrad>(adagrad), 335364904832);
  EXPECT_EQ(checksum_of_training<optim::RowWiseAdagrad>(adagrad), 335311268639);
  EXPECT_EQ(checksum_of_training<optim::Adam>(
                AdamOptions(.1).betas({.7, .9}).eps(.1).weight_decay(.01).amsgrad(true)),
            327105632475);
  EXPECT_EQ(checksum_of_training<optim::AdamW>(
                AdamWOptions(.1).betas({.7, .9}).eps(.1).weight_decay(.1).amsgrad(true)),
            326779378852);
}

}  // namespace
}  // namespace myemb
