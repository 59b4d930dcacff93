// Floating-point arithmetic. Correctly rounded operations are exact; `.approx` ones are the
// correctly rounded value too.
#include <cfenv>
#include <limits>

#include "operations.h"

namespace cudasim {
namespace {

// Op with another rounding mode than the nearest even one. The volatile copies keep it between the
// mode changes.
template <int kMode, class Op, class... T>
auto rounded(T... values) {
  if constexpr (kMode == FE_TONEAREST) {
    return Op()(values...);
  } else {
    std::fesetround(kMode);
    auto compute = [](volatile T... inputs) { return Op()(static_cast<T>(inputs)...); };
    volatile auto result = compute(values...);
    std::fesetround(FE_TONEAREST);
    return static_cast<decltype(Op()(values...))>(result);
  }
}

template <class T>
T saturate(T value) {
  return value > T(0) ? (value < T(1) ? value : T(1)) : T(0);  // a NaN becomes 0
}

// The modifiers of a float32 operation around its Op: `.ftz` flushes what goes in and what comes
// out.
template <int kMode, bool kFlush, bool kSaturate, class Op>
struct Modified {
  template <class... T>
  auto operator()(T... values) const {
    auto result = canonical(rounded<kMode, Op>((kFlush ? flush(values) : values)...));
    if (kFlush) result = flush(result);
    return kSaturate ? saturate(result) : result;
  }
};

template <int kInputs, class T, class Op>
void add_with_inputs(OperationTable& table, const std::string& opcode, Op op) {
  if constexpr (kInputs == 1) {
    table.unary<T>(opcode, op);
  } else if constexpr (kInputs == 2) {
    table.binary<T>(opcode, op);
  } else {
    table.ternary<T>(opcode, op);
  }
}

template <int kInputs, int kMode, class Op>
void add_float32(OperationTable& table, const std::string& opcode) {
  add_with_inputs<kInputs, float>(table, opcode + ".f32", Modified<kMode, false, false, Op>());
  add_with_inputs<kInputs, float>(table, opcode + ".ftz.f32", Modified<kMode, true, false, Op>());
  add_with_inputs<kInputs, float>(table, opcode + ".sat.f32", Modified<kMode, false, true, Op>());
  add_with_inputs<kInputs, float>(table, opcode + ".ftz.sat.f32",
                                  Modified<kMode, true, true, Op>());
}

template <int kMode, class Op>
struct Rounded {
  template <class... T>
  auto operator()(T... values) const {
    return rounded<kMode, Op>(values...);
  }
};

template <int kInputs, int kMode, class Op>
void add_rounding(OperationTable& table, const std::string& opcode) {
  add_float32<kInputs, kMode, Op>(table, opcode);
  add_with_inputs<kInputs, double>(table, opcode + ".f64", Rounded<kMode, Op>());
}

template <int kInputs, class Op>
void add_all_roundings(OperationTable& table, const std::string& name, Op) {
  add_rounding<kInputs, FE_TONEAREST, Op>(table, name + ".rn");
  add_rounding<kInputs, FE_TOWARDZERO, Op>(table, name + ".rz");
  add_rounding<kInputs, FE_DOWNWARD, Op>(table, name + ".rm");
  add_rounding<kInputs, FE_UPWARD, Op>(table, name + ".rp");
}

template <bool kNan, class T>
T minimum(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) {
    if (kNan || (std::isnan(a) && std::isnan(b)))
      return canonical(std::numeric_limits<T>::quiet_NaN());
    return std::isnan(a) ? b : a;
  }
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}

template <bool kNan, class T>
T maximum(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return minimum<kNan>(a, b);
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

template <class T>
T absolute(T value) {
  return std::fabs(value);
}

template <class Low, class High>
void add_extremes(OperationTable& table, const std::string& nan, Low low, High high) {
  for (const auto& [name, is_min] : {std::pair{"min", true}, std::pair{"max", false}}) {
    const std::string opcode = name + nan;
    const auto add = [&](auto op) {
      using Op = decltype(op);
      table.binary<float>(opcode + ".f32", [](float a, float b) { return Op()(a, b); });
      table.binary<float>((is_min ? "min.ftz" : "max.ftz") + nan + ".f32",
                          [](float a, float b) { return flush(Op()(flush(a), flush(b))); });
      table.binary<float>(opcode + ".xorsign.abs.f32", [](float a, float b) {
        const float magnitude = Op()(std::fabs(a), std::fabs(b));
        return std::copysign(magnitude, std::signbit(a) != std::signbit(b) ? -1.0f : 1.0f);
      });
      table.binary<double>(opcode + ".f64", [](double a, double b) { return Op()(a, b); });
    };
    if (is_min) {
      add(low);
    } else {
      add(high);
    }
  }
}

void add_signs(OperationTable& table) {
  const auto negate_bits = [](uint32_t a) { return a ^ 0x80000000u; };
  table.unary<uint32_t>("neg.f32", negate_bits);
  table.unary<uint32_t>("abs.f32", [](uint32_t a) { return a & 0x7fffffffu; });
  table.unary<float>("neg.ftz.f32", [](float a) { return -flush(a); });
  table.unary<float>("abs.ftz.f32", [](float a) { return absolute(flush(a)); });
  table.unary<uint64_t>("neg.f64", [](uint64_t a) { return a ^ uint64_t{1} << 63; });
  table.unary<uint64_t>("abs.f64", [](uint64_t a) { return a & ~(uint64_t{1} << 63); });
  table.binary<float>("copysign.f32",
                      [](float sign, float value) { return std::copysign(value, sign); });
  table.binary<double>("copysign.f64",
                       [](double sign, double value) { return std::copysign(value, sign); });
}

template <class Op>
struct ViaDouble {
  template <class... T>
  float operator()(T... values) const {
    return static_cast<float>(Op()(static_cast<double>(values)...));
  }
};

// Approximations take float32; their result is the exact one, rounded once.
template <class Op>
void add_approximation(OperationTable& table, const std::string& opcode, Op) {
  constexpr int kInputs = std::is_invocable_v<Op, double> ? 1 : 2;
  add_with_inputs<kInputs, float>(table, opcode + ".f32",
                                  Modified<FE_TONEAREST, false, false, ViaDouble<Op>>());
  add_with_inputs<kInputs, float>(table, opcode + ".ftz.f32",
                                  Modified<FE_TONEAREST, true, false, ViaDouble<Op>>());
}

// The float64 seeds of Newton iterations: only the high words go in and come out, subnormals are
// zeros.
template <class Op>
double high_word_approximation(double value) {
  constexpr uint64_t kHighWord = ~uint64_t{0} << 32;
  const auto high = [](double x) {
    return std::bit_cast<double>(std::bit_cast<uint64_t>(x) & kHighWord);
  };
  const auto flushed = [](double x) {
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0, x) : x;
  };
  return high(flushed(Op()(flushed(high(value)))));
}

void add_approximations(OperationTable& table) {
  add_approximation(table, "rcp.approx", [](double a) { return 1 / a; });
  add_approximation(table, "sqrt.approx", [](double a) { return std::sqrt(a); });
  add_approximation(table, "rsqrt.approx", [](double a) { return 1 / std::sqrt(a); });
  add_approximation(table, "ex2.approx", [](double a) { return std::exp2(a); });
  add_approximation(table, "lg2.approx", [](double a) { return std::log2(a); });
  add_approximation(table, "sin.approx", [](double a) { return std::sin(a); });
  add_approximation(table, "cos.approx", [](double a) { return std::cos(a); });
  add_approximation(table, "tanh.approx", [](double a) { return std::tanh(a); });
  add_approximation(table, "div.approx", [](double a, double b) { return a / b; });
  add_approximation(table, "div.full", [](double a, double b) { return a / b; });
  struct Reciprocal {
    double operator()(double a) const { return 1 / a; }
  };
  struct ReciprocalRoot {
    double operator()(double a) const { return 1 / std::sqrt(a); }
  };
  table.unary<double>("rcp.approx.ftz.f64",
                      [](double a) { return high_word_approximation<Reciprocal>(a); });
  table.unary<double>("rsqrt.approx.ftz.f64",
                      [](double a) { return high_word_approximation<ReciprocalRoot>(a); });
  table.unary<double>("rsqrt.approx.f64", [](double a) { return 1 / std::sqrt(a); });
}

// ---- 16-bit floats: exact in float (or, for fma, in an odd-rounded double), then rounded once.

template <class T>
bool is_nan(T value) {
  return std::isnan(static_cast<float>(value));
}

template <class T, class Op>
T lift(T a, T b, Op op) {
  return T(op(static_cast<float>(a), static_cast<float>(b)));
}
template <class T, class Op>
Pair<T> lift(Pair<T> a, Pair<T> b, Op op) {
  return {lift(a.low, b.low, op), lift(a.high, b.high, op)};
}

template <class T>
T fused(T a, T b, T c) {
  const double product = double{static_cast<float>(a)} * static_cast<float>(b);
  return T(add_to_odd(product, static_cast<float>(c)));
}
template <class T>
Pair<T> fused(Pair<T> a, Pair<T> b, Pair<T> c) {
  return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)};
}

template <class T>
void add_short_floats(OperationTable& table, const std::string& type, uint32_t sign_bits) {
  const auto add = [&](const std::string& name, auto op) {
    using Op = decltype(op);
    table.binary<T>(name + "." + type, [](T a, T b) { return lift(a, b, Op()); });
  };
  for (const char* rounding : {"", ".rn"}) {
    add(std::string("add") + rounding, [](float a, float b) { return a + b; });
    add(std::string("sub") + rounding, [](float a, float b) { return a - b; });
    add(std::string("mul") + rounding, [](float a, float b) { return a * b; });
  }
  add("min", [](float a, float b) { return minimum<false>(a, b); });
  add("max", [](float a, float b) { return maximum<false>(a, b); });
  add("min.NaN", [](float a, float b) { return minimum<true>(a, b); });
  add("max.NaN", [](float a, float b) { return maximum<true>(a, b); });
  table.ternary<T>("fma.rn." + type, [](T a, T b, T c) { return fused(a, b, c); });
  if (sign_bits == 0x8000u) {
    table.unary<uint32_t>("neg." + type, [](uint32_t a) { return a ^ 0x8000u; });
    table.unary<uint32_t>("abs." + type, [](uint32_t a) { return a & 0x7fffu; });
  } else {
    table.unary<uint32_t>("neg." + type, [](uint32_t a) { return a ^ 0x80008000u; });
    table.unary<uint32_t>("abs." + type, [](uint32_t a) { return a & 0x7fff7fffu; });
  }
}

struct Add {
  auto operator()(auto a, auto b) const { return a + b; }
};
struct Subtract {
  auto operator()(auto a, auto b) const { return a - b; }
};
struct Multiply {
  auto operator()(auto a, auto b) const { return a * b; }
};
struct MultiplyAdd {
  auto operator()(auto a, auto b, auto c) const { return std::fma(a, b, c); }
};

// add.f32x2 and the like: two float32 in a 64-bit register.
void add_float_pairs(OperationTable& table) {
  using P = Pair<float>;
  for (const char* rounding : {"", ".rn"}) {
    const std::string suffix = std::string(rounding) + ".f32x2";
    table.binary<P>("add" + suffix, [](P a, P b) {
      return P{canonical(a.low + b.low), canonical(a.high + b.high)};
    });
    table.binary<P>("sub" + suffix, [](P a, P b) {
      return P{canonical(a.low - b.low), canonical(a.high - b.high)};
    });
    table.binary<P>("mul" + suffix, [](P a, P b) {
      return P{canonical(a.low * b.low), canonical(a.high * b.high)};
    });
  }
  table.ternary<P>("fma.rn.f32x2", [](P a, P b, P c) {
    return P{canonical(std::fma(a.low, b.low, c.low)), canonical(std::fma(a.high, b.high, c.high))};
  });
}

}  // namespace

void add_float_operations(OperationTable& table) {
  add_rounding<2, FE_TONEAREST, Add>(table, "add");
  add_rounding<2, FE_TONEAREST, Subtract>(table, "sub");
  add_rounding<2, FE_TONEAREST, Multiply>(table, "mul");
  add_all_roundings<2>(table, "add", Add());
  add_all_roundings<2>(table, "sub", Subtract());
  add_all_roundings<2>(table, "mul", Multiply());
  add_all_roundings<3>(table, "fma", MultiplyAdd());
  add_all_roundings<3>(table, "mad", MultiplyAdd());
  add_all_roundings<2>(table, "div", [](auto a, auto b) { return a / b; });
  add_all_roundings<1>(table, "sqrt", [](auto a) { return std::sqrt(a); });
  add_all_roundings<1>(table, "rcp", [](auto a) { return 1 / a; });
  add_extremes(
      table, "", [](auto a, auto b) { return minimum<false>(a, b); },
      [](auto a, auto b) { return maximum<false>(a, b); });
  add_extremes(
      table, ".NaN", [](auto a, auto b) { return minimum<true>(a, b); },
      [](auto a, auto b) { return maximum<true>(a, b); });
  add_signs(table);
  add_approximations(table);
  add_float_pairs(table);
  add_short_floats<F16>(table, "f16", 0x8000);
  add_short_floats<BF16>(table, "bf16", 0x8000);
  add_short_floats<Pair<F16>>(table, "f16x2", 0x80008000);
  add_short_floats<Pair<BF16>>(table, "bf16x2", 0x80008000);
}

}  // namespace cudasim
