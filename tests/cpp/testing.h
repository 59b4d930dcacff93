#pragma once

// What the C++ tests share: small tensors, threads, checks of errors and gradients.

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <cstdint>
#include <string_view>
#include <tuple>
#include <typeinfo>
#include <vector>

namespace myemb::testing {

inline constexpr at::ScalarType kIndexTypes[] = {at::kByte, at::kShort, at::kInt, at::kLong};
inline constexpr at::ScalarType kTableTypes[] = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16};

inline at::Tensor longs(std::vector<int64_t> values) { return at::tensor(values, at::kLong); }

// How many threads ATen has, as long as this lives.
class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }

 private:
  int before_;
};

// A leaf of normally distributed doubles that requires grad.
inline at::Tensor leaf(at::IntArrayRef shape) {
  return at::randn(shape, at::kDouble).requires_grad_();
}

// f throws exactly Error, and its message has text in it.
template <typename Error, typename F>
void expect_error(std::string_view text, F&& f) {
  try {
    f();
    ADD_FAILURE() << "no exception, expected: " << text;
  } catch (const c10::Error& error) {
    EXPECT_EQ(typeid(error), typeid(Error)) << typeid(error).name();
    const std::string_view message = error.what_without_backtrace();
    EXPECT_TRUE(message.find(text) != message.npos)
        << "said: " << message << "\nexpected: " << text;
  }
}

inline ::testing::AssertionResult close(const at::Tensor& actual, const at::Tensor& expected,
                                        double tolerance = 1e-12) {
  if (actual.sizes() != expected.sizes()) {
    return ::testing::AssertionFailure() << actual.sizes() << " is not " << expected.sizes();
  }
  const auto a = actual.to(at::kDouble), b = expected.to(at::kDouble);
  if (at::allclose(a, b, tolerance, tolerance, /*equal_nan=*/true)) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "actual\n" << a << "\nexpected\n" << b;
}

// The gradients of sum(output * upstream), zeros where an input takes no part.
inline std::vector<at::Tensor> gradients(const at::Tensor& output,
                                         const std::vector<at::Tensor>& inputs,
                                         const at::Tensor& upstream, bool create_graph = false) {
  auto grads = torch::autograd::grad({output}, inputs, {upstream}, /*retain_graph=*/true,
                                     create_graph, /*allow_unused=*/true);
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!grads[i].defined()) grads[i] = at::zeros_like(inputs[i]);
  }
  return grads;
}

// Both functions of inputs agree in double: values, gradients and gradients of gradients.
template <typename F, typename G>
void expect_same_derivatives(const F& actual, const G& expected,
                             const std::vector<at::Tensor>& inputs) {
  const auto upstream = at::randn_like(expected().detach()).requires_grad_();
  std::vector<at::Tensor> with_upstream = inputs;
  with_upstream.push_back(upstream);
  std::vector<at::Tensor> first[2], second[2];
  const at::Tensor outputs[2] = {actual(), expected()};
  ASSERT_TRUE(close(outputs[0], outputs[1]));
  for (int i = 0; i < 2; ++i) {
    at::manual_seed(1);
    first[i] = gradients(outputs[i], inputs, upstream, /*create_graph=*/true);
    at::Tensor combined = at::zeros({}, at::kDouble);
    for (const auto& grad : first[i]) combined = combined + (grad * at::randn_like(grad)).sum();
    second[i] = gradients(combined, with_upstream, at::ones_like(combined));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(close(first[0][i], first[1][i])) << "gradient of input " << i;
  }
  for (size_t i = 0; i < with_upstream.size(); ++i) {
    EXPECT_TRUE(close(second[0][i], second[1][i])) << "second derivative of input " << i;
  }
}

// The tangent of f at primal along tangent, by forward-mode differentiation.
template <typename F>
at::Tensor tangent_of(const F& f, const at::Tensor& primal, const at::Tensor& tangent) {
  using torch::autograd::ForwardADLevel;
  const uint64_t level = ForwardADLevel::get_next_idx();
  const auto result = f(at::_make_dual(primal.detach(), tangent, static_cast<int64_t>(level)));
  const auto unpacked = at::_unpack_dual(result, static_cast<int64_t>(level));
  const auto found = std::get<1>(unpacked).clone();
  ForwardADLevel::release_idx(level);
  return found;
}

}  // namespace myemb::testing
