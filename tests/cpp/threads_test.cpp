// Eight threads of a C++ program in the same operators, forward and backward.

#include <myemb/functional.h>
#include <myemb/ops.h>
#include <myemb/optim.h>

#include <array>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "testing.h"

namespace myemb {
namespace {

using testing::longs;
using Tensors = std::vector<at::Tensor>;

constexpr size_t kThreads = 8;
constexpr int kRounds = 5;
constexpr int64_t kRows = 300, kWidth = 64;

// What f(i) gives in thread i, all of them at the same time.
std::array<Tensors, kThreads> in_threads(const std::function<Tensors(size_t)>& f) {
  std::array<Tensors, kThreads> results;
  std::array<std::exception_ptr, kThreads> errors;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      try {
        for (int round = 0; round < kRounds; ++round) results[i] = f(i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return results;
}

// All bits of f(i) are those of one thread alone.
void expect_same_as_alone(const std::function<Tensors(size_t)>& f) {
  std::array<Tensors, kThreads> alone;
  for (size_t i = 0; i < kThreads; ++i) alone[i] = f(i);
  const auto together = in_threads(f);
  for (size_t i = 0; i < kThreads; ++i) {
    ASSERT_EQ(together[i].size(), alone[i].size());
    for (size_t j = 0; j < alone[i].size(); ++j) {
      EXPECT_TRUE(at::equal(together[i][j], alone[i][j])) << "thread " << i << " tensor " << j;
    }
  }
}

// The output and the gradient of the table, of an operator whose lookups and threads are i's own.
Tensors differentiated(size_t i, const at::Tensor& table, const at::Tensor& upstream,
                       const std::function<at::Tensor()>& f) {
  at::set_num_threads(1 + static_cast<int>(i % 3));
  const at::Tensor output = f();
  const auto gradients = torch::autograd::grad({output}, {table}, {upstream});
  return {output.detach(), gradients[0].is_sparse() ? gradients[0].to_dense() : gradients[0]};
}

TEST(Threads, ShareATable) {
  at::manual_seed(0);
  const testing::Threads restore(at::get_num_threads());
  const at::Tensor table = at::randn({kRows, kWidth}).requires_grad_();
  for (const int64_t bags : {int64_t{7}, int64_t{700}}) {
    const at::Tensor lookups = at::randint(kRows, {int64_t{kThreads}, bags, 3}, at::kLong);
    const at::Tensor rows = at::randn({bags, 3, kWidth}), upstream = at::randn({bags, kWidth});
    for (const bool sparse : {false, true}) {
      expect_same_as_alone([&](size_t i) {
        const at::Tensor own = lookups[static_cast<int64_t>(i)];
        return differentiated(i, table, rows, [&] {
          return functional::embedding(own, table,
                                       functional::EmbeddingFuncOptions().sparse(sparse));
        });
      });
    }
    for (const int64_t mode : {int64_t{0}, int64_t{1}, int64_t{2}}) {
      expect_same_as_alone([&](size_t i) {
        const at::Tensor own = lookups[static_cast<int64_t>(i)];
        return differentiated(i, table, upstream,
                              [&] { return myemb::embedding_bag(table, own, {}, false, mode); });
      });
    }
  }
}

TEST(Threads, TrainTablesOfTheirOwn) {
  at::manual_seed(0);
  const at::Tensor lookups = at::randint(kRows, {60}, at::kLong), start = at::randn({kRows, 7});
  expect_same_as_alone([&](size_t /*i*/) -> Tensors {
    const at::Tensor table = start.clone().requires_grad_();
    optim::RowWiseAdagrad optimizer({table}, /*lr=*/0.1);
    optim::fuse_in_backward(optimizer, {table});
    for (int step = 0; step < 10; ++step) {
      functional::embedding(lookups, table).square().sum().backward();
    }
    return {table.detach()};
  });
}

TEST(Threads, AreRefusedEachForItself) {
  const at::Tensor table = at::randn({kRows, kWidth});
  in_threads([&](size_t i) -> Tensors {
    const int64_t bad = kRows + static_cast<int64_t>(i);
    testing::expect_error<c10::IndexError>(std::to_string(bad),
                                           [&] { functional::embedding(longs({0, bad}), table); });
    return {functional::embedding(longs({0, 1}), table)};
  });
}

}  // namespace
}  // namespace myemb
