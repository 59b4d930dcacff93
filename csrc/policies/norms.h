#pragma once

// p-norms as a fold over columns: start, fold one |x| into a lane, join two lanes, finish. Every p
// is defined as torch.linalg.vector_norm defines it, NaN included.

#include <policies/power.h>
#include <policies/types.h>

#include <cmath>
#include <limits>

namespace myemb {

// NaN once seen stays: the row is then left alone by renorm, as in aten.
template <typename A>
MYEMB_INLINE A nan_max(A a, A b) {
  return a != a ? a : (b <= a ? a : b);
}

template <typename A>
MYEMB_INLINE A nan_min(A a, A b) {
  return a != a ? a : (b >= a ? a : b);
}

template <typename A>
struct CountNonzero {  // p = 0
  static constexpr A start = 0;
  MYEMB_INLINE A fold(A lane, A x) const { return lane + (x != 0 ? A(1) : A(0)); }
  MYEMB_INLINE A join(A a, A b) const { return a + b; }
  MYEMB_INLINE A finish(A lane) const { return lane; }
};

template <typename A>
struct SumAbs {  // p = 1
  static constexpr A start = 0;
  MYEMB_INLINE A fold(A lane, A x) const { return lane + x; }
  MYEMB_INLINE A join(A a, A b) const { return a + b; }
  MYEMB_INLINE A finish(A lane) const { return lane; }
};

template <typename A>
struct Euclidean {  // p = 2
  static constexpr A start = 0;
  MYEMB_INLINE A fold(A lane, A x) const { return lane + x * x; }
  MYEMB_INLINE A join(A a, A b) const { return a + b; }
  MYEMB_INLINE A finish(A lane) const { return std::sqrt(lane); }
};

template <typename A>
struct MaxAbs {  // p = inf
  static constexpr A start = 0;
  MYEMB_INLINE A fold(A lane, A x) const { return nan_max(lane, x); }
  MYEMB_INLINE A join(A a, A b) const { return nan_max(a, b); }
  MYEMB_INLINE A finish(A lane) const { return lane; }
};

template <typename A>
struct MinAbs {  // p = -inf
  static constexpr A start = std::numeric_limits<A>::infinity();
  MYEMB_INLINE A fold(A lane, A x) const { return nan_min(lane, x); }
  MYEMB_INLINE A join(A a, A b) const { return nan_min(a, b); }
  MYEMB_INLINE A finish(A lane) const { return lane; }
};

template <typename A>
struct PowerNorm {  // every other p; a NaN p gives a NaN norm
  static constexpr A start = 0;
  A p;
  MYEMB_INLINE A fold(A lane, A x) const { return lane + power(x, p); }
  MYEMB_INLINE A join(A a, A b) const { return a + b; }
  MYEMB_INLINE A finish(A lane) const { return power(lane, A(1) / p); }
};

// Calls f with the norm that p names.
template <typename A, typename F>
MYEMB_HOST_INLINE decltype(auto) visit_norm(double p, F&& f) {
  if (p == 2) return f(Euclidean<A>{});
  if (p == 1) return f(SumAbs<A>{});
  if (p == 0) return f(CountNonzero<A>{});
  if (p == std::numeric_limits<double>::infinity()) return f(MaxAbs<A>{});
  if (p == -std::numeric_limits<double>::infinity()) return f(MinAbs<A>{});
  return f(PowerNorm<A>{static_cast<A>(p)});
}

}  // namespace myemb
