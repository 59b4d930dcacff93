// Floating-point arithmetic and comparisons.
#include <cmath>
#include <utility>

#include "opcodes.h"

namespace cudasim_test {
namespace {

// Subnormals become zero.
uint64_t flushed(uint64_t word) { return (word & 0x7f800000) == 0 ? word & 0x80000000 : word; }

// x + y in 113 bits, odd if inexact: then the rounding that follows is the only one that counts.
Exact add_exactly(Exact x, Exact y) {
  const Exact sum = x + y;
  if (!finiteq(sum)) return sum;
  const Exact part = sum - x;
  const Exact error = (x - (sum - part)) + (y - part);
  if (error == 0 || (std::bit_cast<UnsignedWide>(sum) & 1) != 0) return sum;
  return nextafterq(sum, error > 0 ? HUGE_VALQ : -HUGE_VALQ);
}

// The sign of an exact zero sum depends on the rounding.
Exact sum_of(Exact x, Exact y, Rounding rounding) {
  const Exact sum = add_exactly(x, y);
  if (sum == 0 && x == -y && signbitq(x) != signbitq(y))
    return rounding == Rounding::kDown ? Exact{-0.0} : Exact{0};
  return sum;
}

Exact product_of(Exact x, Exact y) { return x * y; }

TEST_F(OpcodeTest, RoundedArithmetic) {
  for (const char* type : {"f32", "f64"}) {
    const Format& format = format_of(type);
    for (const auto& [suffix, mode] : kRoundings) {
      const Rounding rounding = mode;
      const auto check = [&](const std::string& name, size_t inputs, auto op) {
        run({name + "." + suffix + "." + type, std::vector<std::string>(inputs, type), type,
             [=](Operands x) {
               return encode(op(decode(x.a, format), decode(x.b, format), decode(x.c, format)),
                             format, rounding);
             }});
      };
      check("add", 2, [=](Exact a, Exact b, Exact) { return sum_of(a, b, rounding); });
      check("sub", 2, [=](Exact a, Exact b, Exact) { return sum_of(a, -b, rounding); });
      check("mul", 2, [](Exact a, Exact b, Exact) { return product_of(a, b); });
      check("fma", 3,
            [=](Exact a, Exact b, Exact c) { return sum_of(product_of(a, b), c, rounding); });
      check("div", 2, [](Exact a, Exact b, Exact) { return a / b; });
      check("rcp", 1, [](Exact a, Exact, Exact) { return 1 / a; });
      check("sqrt", 1, [](Exact a, Exact, Exact) { return sqrtq(a); });
    }
  }
}

TEST_F(OpcodeTest, FlushingAndSaturation) {
  const auto flushed_value = [](uint64_t word) { return decode(flushed(word), kF32); };
  const auto check = [&](const std::string& name, size_t inputs, auto op) {
    const std::vector<std::string> types(inputs, "f32");
    run({name + ".ftz.f32", types, "f32", [=](Operands x) {
           return flushed(
               encode(op(flushed_value(x.a), flushed_value(x.b), flushed_value(x.c)), kF32));
         }});
    const auto saturated = [](Exact x) {
      return isnanq(x) || x <= 0 ? Exact{0} : x > 1 ? Exact{1} : x;
    };
    run({name + ".sat.f32", types, "f32", [=](Operands x) {
           return encode(saturated(op(decode(x.a, kF32), decode(x.b, kF32), decode(x.c, kF32))),
                         kF32);
         }});
    run({name + ".ftz.sat.f32", types, "f32", [=](Operands x) {
           return flushed(encode(
               saturated(op(flushed_value(x.a), flushed_value(x.b), flushed_value(x.c))), kF32));
         }});
  };
  check("add", 2, [](Exact a, Exact b, Exact) { return sum_of(a, b, Rounding::kNearest); });
  check("mul.rn", 2, [](Exact a, Exact b, Exact) { return a * b; });
  check("fma.rn", 3,
        [](Exact a, Exact b, Exact c) { return sum_of(a * b, c, Rounding::kNearest); });
}

TEST_F(OpcodeTest, Extremes) {
  for (const char* type : {"f16", "bf16", "f32", "f64"}) {
    const Format& format = format_of(type);
    for (const bool is_min : {true, false}) {
      for (const bool nan_wins : {false, true}) {
        const std::string name =
            std::string(is_min ? "min" : "max") + (nan_wins ? ".NaN." : ".") + type;
        run({name, {type, type}, type, [=](Operands x) {
               const bool a_nan = is_nan(x.a, format), b_nan = is_nan(x.b, format);
               if ((a_nan && b_nan) || (nan_wins && (a_nan || b_nan))) return format.nan;
               if (a_nan) return x.b;
               if (b_nan) return x.a;
               const Exact a = decode(x.a, format), b = decode(x.b, format);
               if (a == b) return ((x.a & format.sign()) != 0) == is_min ? x.a : x.b;  // -0 < +0
               return (a < b) == is_min ? x.a : x.b;
             }});
      }
    }
  }
}

TEST_F(OpcodeTest, SignsAndUnary) {
  for (const char* type : {"f16", "bf16", "f32", "f64"}) {
    const Format& format = format_of(type);
    run({std::string("neg.") + type, {type}, type, [=](Operands x) {
           return x.a ^ format.sign();
         }});
    run({std::string("abs.") + type, {type}, type, [=](Operands x) {
           return x.a & ~format.sign();
         }});
  }
  for (const char* type : {"f32", "f64"}) {
    const Format& format = format_of(type);
    run({std::string("copysign.") + type, {type, type}, type, [=](Operands x) {
           return (x.a & format.sign()) | (x.b & (format.sign() - 1));
         }});
  }
}

TEST_F(OpcodeTest, Approximations) {
  const auto check = [&](const std::string& name, auto op) {
    run({name + ".f32", {"f32"}, "f32", [=](Operands x) {
           return encode(op(decode(x.a, kF32)), kF32);
         }});
    run({name + ".ftz.f32", {"f32"}, "f32", [=](Operands x) {
           return flushed(encode(op(decode(flushed(x.a), kF32)), kF32));
         }});
  };
  check("rcp.approx", [](Exact a) { return 1 / a; });
  check("sqrt.approx", [](Exact a) { return sqrtq(a); });
  check("rsqrt.approx", [](Exact a) { return Exact{static_cast<double>(1 / sqrtq(a))}; });
  check("ex2.approx", [](Exact a) { return Exact{std::exp2(static_cast<double>(a))}; });
  check("lg2.approx", [](Exact a) { return Exact{std::log2(static_cast<double>(a))}; });
  run({"div.full.f32", {"f32", "f32"}, "f32", [](Operands x) {
         return encode(decode(x.a, kF32) / decode(x.b, kF32), kF32);
       }});
}

TEST_F(OpcodeTest, ShortFloats) {
  for (const char* type : {"f16", "bf16"}) {
    const Format& format = format_of(type);
    const auto check = [&](const std::string& name, size_t inputs, auto op) {
      const auto scalar = [=](uint64_t a, uint64_t b, uint64_t c) {
        return encode(op(decode(a, format), decode(b, format), decode(c, format)), format);
      };
      run({name + "." + type, std::vector<std::string>(inputs, type), type,
           [=](Operands x) { return scalar(x.a, x.b, x.c); }});
      const std::string pair = std::string(type) + "x2";
      run({name + "." + pair, std::vector<std::string>(inputs, pair), pair, [=](Operands x) {
             return scalar(x.a >> 16, x.b >> 16, x.c >> 16) << 16 | scalar(x.a, x.b, x.c);
           }});
    };
    check("add", 2, [](Exact a, Exact b, Exact) { return sum_of(a, b, Rounding::kNearest); });
    check("sub", 2, [](Exact a, Exact b, Exact) { return sum_of(a, -b, Rounding::kNearest); });
    check("mul", 2, [](Exact a, Exact b, Exact) { return a * b; });
    check("fma.rn", 3,
          [](Exact a, Exact b, Exact c) { return sum_of(a * b, c, Rounding::kNearest); });
  }
}

TEST_F(OpcodeTest, FloatComparisons) {
  for (const char* type : {"f16", "bf16", "f32", "f64"}) {
    const Format& format = format_of(type);
    const auto compare = [&](const std::string& name, bool with_nan, auto op) {
      run({"setp." + name + "." + type, {type, type}, "pred", [=](Operands x) {
             const Exact a = decode(x.a, format), b = decode(x.b, format);
             return uint64_t{isnanq(a) || isnanq(b) ? with_nan : op(a, b)};
           }});
    };
    const auto both = [&](const std::string& name, auto op) {
      compare(name, false, op);
      compare(name + "u", true, op);
    };
    both("eq", [](Exact a, Exact b) { return a == b; });
    both("ne", [](Exact a, Exact b) { return a != b; });
    both("lt", [](Exact a, Exact b) { return a < b; });
    both("le", [](Exact a, Exact b) { return a <= b; });
    both("gt", [](Exact a, Exact b) { return a > b; });
    both("ge", [](Exact a, Exact b) { return a >= b; });
    compare("num", false, [](Exact, Exact) { return true; });
    compare("nan", true, [](Exact, Exact) { return false; });
  }
  run({"setp.eq.ftz.f32", {"f32", "f32"}, "pred", [](Operands x) {
         return uint64_t{decode(flushed(x.a), kF32) == decode(flushed(x.b), kF32)};
       }});
  for (const char* type : {"f32", "f64"}) {
    const Format& format = format_of(type);
    const auto test = [&](const std::string& name, auto op) {
      run({"testp." + name + "." + type, {type}, "pred", [=](Operands x) {
             return uint64_t{op(decode(x.a, format))};
           }});
    };
    const Exact smallest = ldexpq(1, format.min_exponent());
    test("finite", [](Exact a) { return finiteq(a) != 0; });
    test("infinite", [](Exact a) { return isinfq(a) != 0; });
    test("number", [](Exact a) { return !isnanq(a); });
    test("notanumber", [](Exact a) { return isnanq(a) != 0; });
    test("normal", [=](Exact a) { return finiteq(a) != 0 && fabsq(a) >= smallest; });
    test("subnormal", [=](Exact a) { return a != 0 && fabsq(a) < smallest; });
  }
}

}  // namespace
}  // namespace cudasim_test
