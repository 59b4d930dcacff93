// Integer arithmetic, bits and comparisons of integers.
#include "opcodes.h"

namespace cudasim_test {
namespace {

TEST_F(OpcodeTest, IntegerArithmetic) {
  for (const IntegerType& t : kIntegerTypes) {
    const auto binary = [&](const std::string& opcode, auto op) {
      run({opcode + "." + t.name, {t.name, t.name}, t.name, [=](Operands x) {
             return static_cast<uint64_t>(op(t.value(x.a), t.value(x.b)));
           }});
    };
    binary("add", [](Wide a, Wide b) { return a + b; });
    binary("sub", [](Wide a, Wide b) { return a - b; });
    binary("min", [](Wide a, Wide b) { return a < b ? a : b; });
    binary("max", [](Wide a, Wide b) { return a > b ? a : b; });
    binary("mul.lo", [](Wide a, Wide b) {
      return static_cast<UnsignedWide>(a) * static_cast<UnsignedWide>(b);
    });
    binary("mul.hi", [=](Wide a, Wide b) {
      return t.is_signed ? static_cast<UnsignedWide>((a * b) >> t.bits)
                         : (static_cast<UnsignedWide>(a) * static_cast<UnsignedWide>(b)) >> t.bits;
    });
    binary("div", [](Wide a, Wide b) { return b == 0 ? Wide{-1} : a / b; });
    binary("rem", [](Wide a, Wide b) { return b == 0 ? a : a % b; });
    if (t.is_signed) {
      run({"neg." + t.name, {t.name}, t.name, [=](Operands x) { return t.low(-t.value(x.a)); }});
      run({"abs." + t.name, {t.name}, t.name, [=](Operands x) {
             return t.low(t.value(x.a) < 0 ? -t.value(x.a) : t.value(x.a));
           }});
    }
    const auto ternary = [&](const std::string& opcode, auto op) {
      run({opcode + "." + t.name, {t.name, t.name, t.name}, t.name, [=](Operands x) {
             return static_cast<uint64_t>(op(t.value(x.a), t.value(x.b), t.value(x.c)));
           }});
    };
    ternary("mad.lo", [](Wide a, Wide b, Wide c) {
      return static_cast<UnsignedWide>(a) * static_cast<UnsignedWide>(b) +
             static_cast<UnsignedWide>(c);
    });
    ternary("sad", [](Wide a, Wide b, Wide c) { return c + (a < b ? b - a : a - b); });
    if (t.bits < 64) {
      ternary("mad.hi", [=](Wide a, Wide b, Wide c) { return ((a * b) >> t.bits) + c; });
      const std::string wide = (t.is_signed ? "s" : "u") + std::to_string(2 * t.bits);
      run({"mul.wide." + t.name, {t.name, t.name}, wide, [=](Operands x) {
             return t.low(t.value(x.a) * t.value(x.b));
           }});
      run({"mad.wide." + t.name, {t.name, t.name, wide}, wide, [=](Operands x) {
             return t.low(t.value(x.a) * t.value(x.b)) + x.c;
           }});
    }
  }
}

TEST_F(OpcodeTest, SaturatingAnd24Bit) {
  const IntegerType s32 = kIntegerTypes[4];
  const auto clamp = [=](Wide x) {
    return static_cast<uint64_t>(x < s32.min() ? s32.min() : x > s32.max() ? s32.max() : x);
  };
  run({"add.sat.s32", {"s32", "s32"}, "s32", [=](Operands x) {
         return clamp(s32.value(x.a) + s32.value(x.b));
       }});
  run({"sub.sat.s32", {"s32", "s32"}, "s32", [=](Operands x) {
         return clamp(s32.value(x.a) - s32.value(x.b));
       }});
  for (const bool is_signed : {false, true}) {
    const IntegerType t24{"", 24, is_signed};
    const std::string type = is_signed ? "s32" : "u32";
    run({"mul24.lo." + type, {type, type}, type, [=](Operands x) {
           return static_cast<uint64_t>(t24.value(x.a) * t24.value(x.b));
         }});
    run({"mad24.lo." + type, {type, type, type}, type, [=](Operands x) {
           return static_cast<uint64_t>(t24.value(x.a) * t24.value(x.b)) + x.c;
         }});
  }
}

TEST_F(OpcodeTest, CarryChains) {
  // 128-bit sums from 64-bit, and 64-bit ones from 32-bit halves.
  const std::string registers =
      "  .reg .b64 %a, %b, %c, %d, %e;\n  .reg .b32 %a0, %a1, %b0, %b1, %c0, %c1, %d0, %d1;\n";
  const std::string split =
      "  mov.b64 {%a0, %a1}, %a;\n  mov.b64 {%b0, %b1}, %b;\n  mov.b64 {%c0, %c1}, %c;\n";
  const std::string load =
      load_operand("%a", "u64", 0) + load_operand("%b", "u64", 1) + load_operand("%c", "u64", 2);
  const auto check = [&](const std::string& code, auto low, auto high) {
    SCOPED_TRACE(code);
    const std::string body =
        load + split + code + store_result("%d", "u64", 0) + store_result("%e", "u64", 1);
    const std::vector<Operands> inputs = make_inputs({"u64", "u64", "u64"});
    const auto outputs = run_kernel("carry", kernel_text("carry", registers, body), inputs);
    for (size_t i = 0; i < inputs.size(); ++i) {
      ASSERT_EQ(outputs[i][0], low(inputs[i]))
          << std::hex << inputs[i].a << " " << inputs[i].b << " " << inputs[i].c;
      ASSERT_EQ(outputs[i][1], high(inputs[i]))
          << std::hex << inputs[i].a << " " << inputs[i].b << " " << inputs[i].c;
    }
  };
  const auto sum = [](Operands x) { return UnsignedWide{x.a} + x.b; };
  check(
      "  add.cc.u64 %d, %a, %b;\n  addc.u64 %e, 0, 0;\n",
      [=](Operands x) { return static_cast<uint64_t>(sum(x)); },
      [=](Operands x) { return static_cast<uint64_t>(sum(x) >> 64); });
  check(
      "  sub.cc.u64 %d, %a, %b;\n  subc.u64 %e, %c, 0;\n", [](Operands x) { return x.a - x.b; },
      [](Operands x) { return x.c - (x.a < x.b ? 1 : 0); });
  check(
      "  add.cc.u32 %d0, %a0, %b0;\n  addc.cc.u32 %d1, %a1, %b1;\n  addc.u32 %c0, 0, 0;\n  mov.b64 %d, {%d0, %d1};\n"
      "  cvt.u64.u32 %e, %c0;\n",
      [](Operands x) { return x.a + x.b; }, [](Operands x) { return uint64_t{x.a + x.b < x.a}; });
  check(
      "  sub.cc.s32 %d0, %a0, %b0;\n  subc.cc.s32 %d1, %a1, %b1;\n  mov.b64 %d, {%d0, %d1};\n  mov.b64 %e, 0;\n",
      [](Operands x) { return x.a - x.b; }, [](Operands) { return uint64_t{0}; });
  const auto product_sum = [](Operands x) {
    return UnsignedWide{static_cast<uint32_t>(x.a)} * static_cast<uint32_t>(x.b) + x.c;
  };
  check(
      "  mad.lo.cc.u32 %d0, %a0, %b0, %c0;\n  madc.hi.cc.u32 %d1, %a0, %b0, %c1;\n  addc.u32 %c0, 0, 0;\n"
      "  mov.b64 %d, {%d0, %d1};\n  cvt.u64.u32 %e, %c0;\n",
      [=](Operands x) { return static_cast<uint64_t>(product_sum(x)); },
      [=](Operands x) { return static_cast<uint64_t>(product_sum(x) >> 64); });
}

TEST_F(OpcodeTest, IntegerComparisons) {
  for (const IntegerType& t : kIntegerTypes) {
    const auto compare = [&](const std::string& name, auto op) {
      run({"setp." + name + "." + t.name, {t.name, t.name}, "pred", [=](Operands x) {
             return uint64_t{op(t.value(x.a), t.value(x.b))};
           }});
    };
    compare("eq", [](Wide a, Wide b) { return a == b; });
    compare("ne", [](Wide a, Wide b) { return a != b; });
    compare("lt", [](Wide a, Wide b) { return a < b; });
    compare("le", [](Wide a, Wide b) { return a <= b; });
    compare("gt", [](Wide a, Wide b) { return a > b; });
    compare("ge", [](Wide a, Wide b) { return a >= b; });
    if (t.is_signed) continue;
    compare("lo", [](Wide a, Wide b) { return a < b; });
    compare("ls", [](Wide a, Wide b) { return a <= b; });
    compare("hi", [](Wide a, Wide b) { return a > b; });
    compare("hs", [](Wide a, Wide b) { return a >= b; });
  }
  const auto less = [](Operands x) {
    return static_cast<int32_t>(x.a) < static_cast<int32_t>(x.b);
  };
  run({"setp.lt.and.s32", {"s32", "s32", "pred"}, "pred", [=](Operands x) {
         return uint64_t{less(x) && x.c != 0};
       }});
  run({"setp.lt.or.s32", {"s32", "s32", "pred"}, "pred", [=](Operands x) {
         return uint64_t{less(x) || x.c != 0};
       }});
  run({"setp.lt.xor.s32", {"s32", "s32", "pred"}, "pred", [=](Operands x) {
         return uint64_t{less(x) != (x.c != 0)};
       }});
  run({"setp.lt.and.s32 %d, %a, %b, !%c; //", {"s32", "s32", "pred"}, "pred", [=](Operands x) {
         return uint64_t{less(x) && x.c == 0};
       }});
  run({"setp.lt.s32 _|%d, %a, %b; //", {"s32", "s32"}, "pred", [=](Operands x) {
         return uint64_t{!less(x)};
       }});
  run({"set.lt.u32.s32", {"s32", "s32"}, "u32", [=](Operands x) {
         return less(x) ? 0xffffffffu : 0u;
       }});
  run({"set.lt.f32.s32", {"s32", "s32"}, "f32", [=](Operands x) {
         return less(x) ? 0x3f800000u : 0u;
       }});
  for (const char* type : {"b16", "b32", "u64", "f32", "f64"}) {
    run({std::string("selp.") + type, {type, type, "pred"}, type, [](Operands x) {
           return x.c != 0 ? x.a : x.b;
         }});
  }
  run({"slct.u32.s32", {"u32", "u32", "s32"}, "u32", [](Operands x) {
         return static_cast<int32_t>(x.c) >= 0 ? x.a : x.b;
       }});
  run({"slct.u64.f32", {"u64", "u64", "f32"}, "u64", [](Operands x) {
         return decode(x.c, kF32) >= 0 ? x.a : x.b;
       }});
}

}  // namespace
}  // namespace cudasim_test
