#pragma once

// Optimizer rules: what a step does to one element of a table, given its gradient. One struct a
// rule, for both devices; a new optimizer is a new struct and a line in visit_rule.
//
//   struct Rule {
//     static constexpr int kStates;      // tables of accumulators that go with the weights
//     static constexpr bool kRowWise;    // whether one accumulator a row goes with them, too
//     // The new weight w, and its states, for a gradient g that `Gradient` has prepared. V is an
//     // accumulator or a vector of them; sqrt takes the roots of one.
//     template <typename V, typename Sqrt>
//     void apply(V& w, const V& g, V* states, A row_factor, const Sqrt& sqrt) const;
//     // Row-wise rules alone: the state of a row with the mean square of its gradient added, and
//     // the row_factor of its columns that follows from it.
//     A updated_row(A state, A mean_square) const;
//     A row_factor(A state) const;
//   };
//
// The operations and their order are a part of the numbers contract: no fused multiply-add, and
// roots and quotients that IEEE rounds.

#include <myemb/update.h>
#include <policies/types.h>

#include <cmath>

namespace myemb {

// From the gradient of the loss to what the rules take.
template <typename A>
struct Gradient {
  A weight_decay;
  A shrink;
  bool maximize;

  explicit Gradient(const UpdateOptions& options)
      : weight_decay(static_cast<A>(options.weight_decay)),
        shrink(static_cast<A>(1 - options.shrink)),
        maximize(options.maximize) {}

  template <typename V>
  MYEMB_INLINE V prepare(const V& w, V g) const {
    if (maximize) g = -g;
    if (weight_decay != 0) g = g + w * weight_decay;
    return g;
  }

  // After prepare.
  template <typename V>
  MYEMB_INLINE V shrunk(const V& w) const {
    return shrink != 1 ? w * shrink : w;
  }
};

// w -= lr g. (Robbins and Monro, 1951)
template <typename A>
struct Sgd {
  static constexpr int kStates = 0;
  static constexpr bool kRowWise = false;
  A lr;

  explicit Sgd(const UpdateOptions& options) : lr(static_cast<A>(options.lr)) {}

  template <typename V, typename Sqrt>
  MYEMB_INLINE void apply(V& w, const V& g, V* /*states*/, A /*row_factor*/,
                          const Sqrt& /*sqrt*/) const {
    w = w - g * lr;
  }
};

// b = momentum b + (1 - dampening) g; w -= lr b, or with Nesterov's look ahead lr (g + momentum b).
// (Sutskever et al., 2013, in the form of torch.optim.SGD)
template <typename A>
struct SgdMomentum {
  static constexpr int kStates = 1;
  static constexpr bool kRowWise = false;
  A lr, momentum, share;
  bool nesterov;

  explicit SgdMomentum(const UpdateOptions& options)
      : lr(static_cast<A>(options.lr)),
        momentum(static_cast<A>(options.momentum)),
        share(static_cast<A>(1 - options.dampening)),
        nesterov(options.nesterov) {}

  template <typename V, typename Sqrt>
  MYEMB_INLINE void apply(V& w, const V& g, V* states, A /*row_factor*/,
                          const Sqrt& /*sqrt*/) const {
    states[0] = states[0] * momentum + g * share;
    w = w - (nesterov ? g + states[0] * momentum : states[0]) * lr;
  }
};

// s += g^2; w -= lr g / (sqrt(s) + eps). (Duchi, Hazan and Singer, 2011)
template <typename A>
struct Adagrad {
  static constexpr int kStates = 1;
  static constexpr bool kRowWise = false;
  A lr, eps;

  explicit Adagrad(const UpdateOptions& options)
      : lr(static_cast<A>(options.lr)), eps(static_cast<A>(options.eps)) {}

  template <typename V, typename Sqrt>
  MYEMB_INLINE void apply(V& w, const V& g, V* states, A /*row_factor*/, const Sqrt& sqrt) const {
    states[0] = states[0] + g * g;
    w = w - g * lr / (sqrt(states[0]) + eps);
  }
};

// One s for each row: s += mean of g^2; w -= lr / (sqrt(s) + eps) g. (FBGEMM's exact row-wise
// Adagrad; Mudigere et al., 2022)
template <typename A>
struct RowWiseAdagrad {
  static constexpr int kStates = 0;
  static constexpr bool kRowWise = true;
  A lr, eps;

  explicit RowWiseAdagrad(const UpdateOptions& options)
      : lr(static_cast<A>(options.lr)), eps(static_cast<A>(options.eps)) {}

  MYEMB_INLINE A updated_row(A state, A mean_square) const { return state + mean_square; }
  MYEMB_INLINE A row_factor(A state) const { return lr / (std::sqrt(state) + eps); }

  template <typename V, typename Sqrt>
  MYEMB_INLINE void apply(V& w, const V& g, V* /*states*/, A row_factor,
                          const Sqrt& /*sqrt*/) const {
    w = w - g * row_factor;
  }
};

// m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2; w -= lr m / (sqrt(v) + eps), where lr
// and eps contain the bias corrections. With amsgrad the largest v so far in place of v. (Kingma
// and Ba, 2015; Reddi, Kale and Kumar, 2018)
template <typename A, bool kAmsgrad>
struct Adam {
  static constexpr int kStates = kAmsgrad ? 3 : 2;
  static constexpr bool kRowWise = false;
  A lr, eps, share1, beta2, share2;

  explicit Adam(const UpdateOptions& options)
      : lr(static_cast<A>(options.lr)),
        eps(static_cast<A>(options.eps)),
        share1(static_cast<A>(1 - options.beta1)),
        beta2(static_cast<A>(options.beta2)),
        share2(static_cast<A>(1 - options.beta2)) {}

  template <typename V, typename Sqrt>
  MYEMB_INLINE void apply(V& w, const V& g, V* states, A /*row_factor*/, const Sqrt& sqrt) const {
    states[0] = states[0] + (g - states[0]) * share1;
    states[1] = states[1] * beta2 + g * share2 * g;  // as torch: g * g may be too large
    if constexpr (kAmsgrad) states[2] = states[2] > states[1] ? states[2] : states[1];
    w = w - states[0] * lr / (sqrt(states[kStates - 1]) + eps);
  }
};

// Calls f with the rule that the options name.
template <typename A, typename F>
MYEMB_HOST_INLINE decltype(auto) visit_rule(const UpdateOptions& options, F&& f) {
  switch (options.rule) {
    case UpdateRule::Adagrad:
      return f(Adagrad<A>(options));
    case UpdateRule::RowWiseAdagrad:
      return f(RowWiseAdagrad<A>(options));
    case UpdateRule::Adam:
      return options.amsgrad ? f(Adam<A, true>(options)) : f(Adam<A, false>(options));
    default:
      return options.momentum != 0 ? f(SgdMomentum<A>(options)) : f(Sgd<A>(options));
  }
}

// The tables of accumulators that visit_rule's rule has.
MYEMB_HOST_INLINE int count_states(const UpdateOptions& options) {
  return visit_rule<float>(options, [](const auto& rule) { return rule.kStates; });
}

}  // namespace myemb
