// Every arithmetic opcode against an oracle: integers in 128 bits, floats in 113 bits and rounded
// once.
#include <cmath>
#include <functional>
#include <random>

#include "oracle.h"
#include "ptx_kernel.h"

namespace cudasim_test {
namespace {

using Wide = __int128;
using UnsignedWide = unsigned __int128;

struct Case {
  std::string opcode;
  std::vector<std::string> inputs;
  std::string output;
  std::function<uint64_t(Operands)> expected;
};

// ---- Operands: all pairs of edge values, then random ones.

const Format& format_of(const std::string& type) {
  if (type == "f16") return kF16;
  if (type == "bf16") return kBF16;
  return type == "f32" ? kF32 : kF64;
}

bool is_float(const std::string& type) { return type[0] == 'f' || type == "bf16"; }

std::vector<uint64_t> edge_values(const std::string& type) {
  if (type == "pred") return {0, 1};
  if (type.find("x2") != std::string::npos)
    return {0, 0x3c003c00, 0x7c008001, 0x3f803f80, 0xfc007e00, 0x00010400};
  if (!is_float(type)) {
    std::vector<uint64_t> values = {0,  1,  2,  3,  7,  8,   15,     16,
                                    31, 32, 33, 63, 64, 255, 0x1234, 0x8765432112345678};
    const int bits = register_bits(type) == 32 && type.back() == '8' ? 8 : register_bits(type);
    const uint64_t sign = uint64_t{1} << (bits - 1);
    for (const uint64_t value :
         {sign, sign - 1, sign + 1, uint64_t{0} - 1, uint64_t{0} - 2, uint64_t{0} - 31}) {
      values.push_back(value);
    }
    return values;
  }
  const Format& format = format_of(type);
  std::vector<uint64_t> values = {0,
                                  1,  // the smallest subnormal
                                  (uint64_t{1} << format.mantissa_bits) - 1,  // the largest
                                  uint64_t{1} << format.mantissa_bits,        // the smallest normal
                                  format.infinity() - 1,
                                  format.infinity(),
                                  format.infinity() + 1};  // a signalling NaN
  for (const double value : {0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 0.1, 255.5, 32767.5, 65504.0,
                             2147483648.0, 1e10, 1e19}) {
    values.push_back(encode(value, format));
  }
  const size_t positive = values.size();
  for (size_t i = 0; i < positive; ++i) values.push_back(values[i] | format.sign());
  return values;
}

uint64_t random_value(const std::string& type, std::mt19937_64& random) {
  if (!is_float(type) || type.find("x2") != std::string::npos || random() % 4 == 0) return random();
  const double value = (static_cast<double>(random() >> 11) * 0x1p-53 - 0.5) *
                       std::ldexp(1.0, static_cast<int>(random() % 40) - 10);
  return encode(value, format_of(type));
}

std::vector<Operands> make_inputs(const std::vector<std::string>& types) {
  std::mt19937_64 random(1);
  std::vector<Operands> inputs;
  const auto edges_of = [&](size_t i) {
    return i < types.size() ? edge_values(types[i]) : std::vector<uint64_t>{0};
  };
  const std::vector<uint64_t> a = edges_of(0), b = edges_of(1), c = edges_of(2);
  for (const uint64_t x : a) {
    for (const uint64_t y : b) inputs.push_back({x, y, c[random() % c.size()]});
  }
  for (int i = 0; i < 700; ++i) {
    Operands operands;
    uint64_t* const words[] = {&operands.a, &operands.b, &operands.c};
    for (size_t j = 0; j < types.size(); ++j) {
      *words[j] = random() % 3 == 0 ? edges_of(j)[random() % edges_of(j).size()]
                                    : random_value(types[j], random);
    }
    inputs.push_back(operands);
  }
  return inputs;
}

void run(const Case& test) {
  SCOPED_TRACE(test.opcode);
  const char* const names[] = {"%a", "%b", "%c"};
  std::string registers = declare("%d", test.output), body, operands = " %d";
  for (size_t i = 0; i < test.inputs.size(); ++i) {
    registers += declare(names[i], test.inputs[i]);
    body += load_operand(names[i], test.inputs[i], static_cast<int>(i));
    operands += std::string(", ") + names[i];
  }
  body += "  " + test.opcode + operands + ";\n" + store_result("%d", test.output, 0);
  const std::vector<Operands> inputs = make_inputs(test.inputs);
  const auto outputs = run_kernel("opcode", kernel_text("opcode", registers, body), inputs);
  ASSERT_EQ(all_reports(), "");
  const int bits = register_bits(test.output);
  const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const uint64_t expected = test.expected(inputs[i]) & mask;
    const uint64_t actual = outputs[i][0] & mask;
    if (test.output == "f64" && is_nan(expected, kF64) && is_nan(actual, kF64)) continue;
    ASSERT_EQ(actual, expected) << std::hex << test.opcode << " of 0x" << inputs[i].a << ", 0x"
                                << inputs[i].b << ", 0x" << inputs[i].c;
  }
}

class OpcodeTest : public SimulatorTest {};

// ---- Integers.

struct IntegerType {
  std::string name;
  int bits;
  bool is_signed;

  Wide value(uint64_t word) const {
    const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
    word &= mask;
    const bool negative = is_signed && (word >> (bits - 1) & 1) != 0;
    return static_cast<Wide>(word) - (negative ? Wide{1} << bits : 0);
  }
  uint64_t low(Wide x) const { return static_cast<uint64_t>(x); }
  Wide min() const { return is_signed ? -(Wide{1} << (bits - 1)) : 0; }
  Wide max() const { return (Wide{1} << (is_signed ? bits - 1 : bits)) - 1; }
};

const IntegerType kIntegerTypes[] = {{"u16", 16, false}, {"u32", 32, false}, {"u64", 64, false},
                                     {"s16", 16, true},  {"s32", 32, true},  {"s64", 64, true}};

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

// ---- Bits.

TEST_F(OpcodeTest, LogicAndShifts) {
  for (const int bits : {16, 32, 64}) {
    const std::string b = "b" + std::to_string(bits), u = "u" + std::to_string(bits),
                      s = "s" + std::to_string(bits);
    const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
    run({"and." + b, {b, b}, b, [](Operands x) { return x.a & x.b; }});
    run({"or." + b, {b, b}, b, [](Operands x) { return x.a | x.b; }});
    run({"xor." + b, {b, b}, b, [](Operands x) { return x.a ^ x.b; }});
    run({"not." + b, {b}, b, [](Operands x) { return ~x.a; }});
    run({"cnot." + b, {b}, b, [=](Operands x) { return uint64_t{(x.a & mask) == 0}; }});
    const auto amount = [=](Operands x) {
      return static_cast<int>(std::min<uint64_t>(x.b & 0xffffffff, 64));
    };
    run({"shl." + b, {b, "u32"}, b, [=](Operands x) {
           return amount(x) >= bits ? 0 : x.a << amount(x);
         }});
    const auto logical = [=](Operands x) {
      return amount(x) >= bits ? 0 : (x.a & mask) >> amount(x);
    };
    run({"shr." + b, {b, "u32"}, b, logical});
    run({"shr." + u, {b, "u32"}, u, logical});
    const IntegerType type{s, bits, true};
    run({"shr." + s, {b, "u32"}, s, [=](Operands x) {
           return static_cast<uint64_t>(type.value(x.a) >> amount(x));
         }});
  }
  for (const char* op : {"and", "or", "xor"}) {
    run({std::string(op) + ".pred", {"pred", "pred"}, "pred", [=](Operands x) {
           const bool a = x.a != 0, b = x.b != 0;
           return uint64_t{op[0] == 'a' ? a && b : op[0] == 'o' ? a || b : a != b};
         }});
  }
  run({"not.pred", {"pred"}, "pred", [](Operands x) { return uint64_t{x.a == 0}; }});
  run({"mov.pred", {"pred"}, "pred", [](Operands x) { return uint64_t{x.a != 0}; }});
}

TEST_F(OpcodeTest, BitFields) {
  for (const int bits : {32, 64}) {
    const std::string b = "b" + std::to_string(bits);
    const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
    const auto bit = [=](uint64_t word, int i) { return word >> i & 1; };
    run({"popc." + b, {b}, "u32", [=](Operands x) {
           uint64_t count = 0;
           for (int i = 0; i < bits; ++i) count += bit(x.a, i);
           return count;
         }});
    run({"clz." + b, {b}, "u32", [=](Operands x) {
           int i = bits;
           while (i > 0 && bit(x.a, i - 1) == 0) --i;
           return static_cast<uint64_t>(bits - i);
         }});
    run({"brev." + b, {b}, b, [=](Operands x) {
           uint64_t reversed = 0;
           for (int i = 0; i < bits; ++i) reversed |= bit(x.a, i) << (bits - 1 - i);
           return reversed;
         }});
    for (const bool is_signed : {false, true}) {
      const std::string type = (is_signed ? "s" : "u") + std::to_string(bits);
      const auto leading = [=](uint64_t a) {
        const uint64_t sign = is_signed ? bit(a, bits - 1) : 0;
        for (int i = bits - 1; i >= 0; --i) {
          if (bit(a, i) != sign) return i;
        }
        return -1;
      };
      run({"bfind." + type, {type}, "u32", [=](Operands x) {
             return static_cast<uint64_t>(leading(x.a));
           }});
      run({"bfind.shiftamt." + type, {type}, "u32", [=](Operands x) {
             return leading(x.a) < 0 ? ~uint64_t{0}
                                     : static_cast<uint64_t>(bits - 1 - leading(x.a));
           }});
      run({"bfe." + type,
           {type, "u32", "u32"},
           type,
           [=](Operands x) {  // as the PTX manual writes it
             const int position = x.b & 255, length = x.c & 255;
             const uint64_t sign = !is_signed || length == 0
                                       ? 0
                                       : bit(x.a, std::min(position + length - 1, bits - 1));
             uint64_t field = 0;
             for (int i = 0; i < bits; ++i) {
               field |= (i < length && position + i < bits ? bit(x.a, position + i) : sign) << i;
             }
             return field;
           }});
    }
    for (const int length : {0, 1, 5, 31, 32, 40, 64, 255}) {
      run({"bfi." + b + " %d, %a, %b, %c, " + std::to_string(length) + "; //",
           {b, b, "u32"},
           b,
           [=](Operands x) {
             const int position = x.c & 255;
             uint64_t result = x.b & mask;
             for (int i = 0; i < length && position + i < bits; ++i) {
               result = (result & ~(uint64_t{1} << (position + i))) | bit(x.a, i) << (position + i);
             }
             return result;
           }});
    }
  }
  run({"bmsk.clamp.b32", {"u32", "u32"}, "u32", [](Operands x) {
         uint64_t mask = 0;
         const uint64_t position = static_cast<uint32_t>(x.a), length = static_cast<uint32_t>(x.b);
         for (uint64_t i = position; i < 32 && i < position + length; ++i) mask |= uint64_t{1} << i;
         return mask;
       }});
}

TEST_F(OpcodeTest, BytesAndFunnels) {
  const auto byte = [](Operands x, unsigned i) {
    return i < 4 ? x.a >> (8 * i) & 0xff : x.b >> (8 * (i - 4)) & 0xff;
  };
  run({"prmt.b32", {"b32", "b32", "b32"}, "b32", [=](Operands x) {
         uint64_t result = 0;
         for (unsigned i = 0; i < 4; ++i) {
           const unsigned selector = x.c >> (4 * i) & 15;
           uint64_t value = byte(x, selector & 7);
           if ((selector & 8) != 0) value = (value & 0x80) != 0 ? 0xff : 0;
           result |= value << (8 * i);
         }
         return result;
       }});
  struct Mode {
    const char* name;
    unsigned bytes[4][4];  // [c][which byte of the result]
  };
  const Mode modes[] = {{"f4e", {{0, 1, 2, 3}, {1, 2, 3, 4}, {2, 3, 4, 5}, {3, 4, 5, 6}}},
                        {"b4e", {{0, 7, 6, 5}, {1, 0, 7, 6}, {2, 1, 0, 7}, {3, 2, 1, 0}}},
                        {"rc8", {{0, 0, 0, 0}, {1, 1, 1, 1}, {2, 2, 2, 2}, {3, 3, 3, 3}}},
                        {"ecl", {{0, 1, 2, 3}, {1, 1, 2, 3}, {2, 2, 2, 3}, {3, 3, 3, 3}}},
                        {"ecr", {{0, 0, 0, 0}, {0, 1, 1, 1}, {0, 1, 2, 2}, {0, 1, 2, 3}}},
                        {"rc16", {{0, 1, 0, 1}, {2, 3, 2, 3}, {0, 1, 0, 1}, {2, 3, 2, 3}}}};
  for (const Mode& mode : modes) {
    run({std::string("prmt.b32.") + mode.name, {"b32", "b32", "b32"}, "b32", [=](Operands x) {
           uint64_t result = 0;
           for (unsigned i = 0; i < 4; ++i) result |= byte(x, mode.bytes[x.c & 3][i]) << (8 * i);
           return result;
         }});
  }
  for (const bool clamp : {false, true}) {
    const std::string suffix = clamp ? ".clamp.b32" : ".wrap.b32";
    const auto both = [](Operands x) { return (x.b & 0xffffffff) << 32 | (x.a & 0xffffffff); };
    const auto amount = [=](Operands x) {
      return clamp ? std::min<uint64_t>(x.c & 0xffffffff, 32) : x.c & 31;
    };
    run({"shf.l" + suffix, {"b32", "b32", "u32"}, "b32", [=](Operands x) {
           return (both(x) << amount(x)) >> 32;
         }});
    run({"shf.r" + suffix, {"b32", "b32", "u32"}, "b32", [=](Operands x) {
           return both(x) >> amount(x);
         }});
  }
  for (const unsigned truth : {0x00u, 0x80u, 0xc0u, 0x96u, 0xe8u, 0xcau, 0x1bu, 0xffu}) {
    run({"lop3.b32 %d, %a, %b, %c, " + std::to_string(truth) + "; //",
         {"b32", "b32", "b32"},
         "b32",
         [=](Operands x) {
           uint64_t result = 0;
           for (int i = 0; i < 32; ++i) {
             const uint64_t row = (x.a >> i & 1) << 2 | (x.b >> i & 1) << 1 | (x.c >> i & 1);
             result |= uint64_t{truth >> row & 1} << i;
           }
           return result;
         }});
  }
  run({"dp4a.s32.s32", {"b32", "b32", "s32"}, "s32", [=](Operands x) {
         uint64_t sum = x.c;
         for (int i = 0; i < 32; i += 8) {
           sum += static_cast<uint64_t>(int{static_cast<int8_t>(x.a >> i)} *
                                        static_cast<int8_t>(x.b >> i));
         }
         return sum;
       }});
  run({"dp4a.u32.u32", {"b32", "b32", "u32"}, "u32", [=](Operands x) {
         uint64_t sum = x.c;
         for (int i = 0; i < 32; i += 8) sum += (x.a >> i & 0xff) * (x.b >> i & 0xff);
         return sum;
       }});
}

// ---- Comparisons and selections.

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

uint64_t flushed(uint64_t word) { return (word & 0x7f800000) == 0 ? word & 0x80000000 : word; }

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

// ---- Floats.

const std::pair<const char*, Rounding> kRoundings[] = {{"rn", Rounding::kNearest},
                                                       {"rz", Rounding::kZero},
                                                       {"rm", Rounding::kDown},
                                                       {"rp", Rounding::kUp}};

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

// ---- Conversions.

const IntegerType kAllIntegerTypes[] = {{"u8", 8, false},   {"u16", 16, false}, {"u32", 32, false},
                                        {"u64", 64, false}, {"s8", 8, true},    {"s16", 16, true},
                                        {"s32", 32, true},  {"s64", 64, true}};

TEST_F(OpcodeTest, IntegerConversions) {
  for (const IntegerType& from : kAllIntegerTypes) {
    for (const IntegerType& to : kAllIntegerTypes) {
      run({"cvt." + to.name + "." + from.name, {from.name}, to.name, [=](Operands x) {
             return static_cast<uint64_t>(to.value(static_cast<uint64_t>(from.value(x.a))));
           }});
      run({"cvt.sat." + to.name + "." + from.name, {from.name}, to.name, [=](Operands x) {
             const Wide value = from.value(x.a);
             return static_cast<uint64_t>(value < to.min()   ? to.min()
                                          : value > to.max() ? to.max()
                                                             : value);
           }});
    }
  }
}

TEST_F(OpcodeTest, FloatToInteger) {
  const std::pair<const char*, Rounding> roundings[] = {{"rni", Rounding::kNearest},
                                                        {"rzi", Rounding::kZero},
                                                        {"rmi", Rounding::kDown},
                                                        {"rpi", Rounding::kUp}};
  for (const char* from : {"f16", "bf16", "f32", "f64"}) {
    for (const IntegerType& to : kAllIntegerTypes) {
      for (const auto& [suffix, mode] : roundings) {
        const Rounding rounding = mode;
        const Format& format = format_of(from);
        const bool wide = to.bits == 64 || format.bits == 64;
        run({std::string("cvt.") + suffix + "." + to.name + "." + from,
             {from},
             to.name,
             [=](Operands x) {
               const Exact value = decode(x.a, format);
               if (isnanq(value))
                 return !wide ? uint64_t{0}
                              : static_cast<uint64_t>(to.value(uint64_t{1} << (to.bits - 1)));
               const Exact integer = round_to_integer(value, rounding);
               if (integer <= static_cast<Exact>(to.min())) return static_cast<uint64_t>(to.min());
               if (integer >= static_cast<Exact>(to.max())) return static_cast<uint64_t>(to.max());
               return static_cast<uint64_t>(static_cast<Wide>(integer));
             }});
      }
    }
  }
}

TEST_F(OpcodeTest, IntegerToFloat) {
  for (const IntegerType& from : kAllIntegerTypes) {
    for (const char* to : {"f16", "bf16", "f32", "f64"}) {
      const Format& format = format_of(to);
      for (const auto& [suffix, mode] : kRoundings) {
        const Rounding rounding = mode;
        if (rounding != Rounding::kNearest && format.bits == 16) continue;
        run({std::string("cvt.") + suffix + "." + to + "." + from.name,
             {from.name},
             to,
             [=](Operands x) {
               return encode(static_cast<Exact>(from.value(x.a)), format, rounding);
             }});
      }
    }
  }
}

TEST_F(OpcodeTest, FloatToFloat) {
  for (const char* from : {"f16", "bf16", "f32", "f64"}) {
    for (const char* to : {"f16", "bf16", "f32", "f64"}) {
      const Format &source = format_of(from), &target = format_of(to);
      if (source.bits == target.bits) continue;
      if (source.bits < target.bits) {
        run({std::string("cvt.") + to + "." + from, {from}, to, [=](Operands x) {
               return encode(decode(x.a, source), target);
             }});
        continue;
      }
      for (const auto& [suffix, mode] : kRoundings) {
        const Rounding rounding = mode;
        if (target.bits == 16 && rounding != Rounding::kNearest && rounding != Rounding::kZero)
          continue;
        run({std::string("cvt.") + suffix + "." + to + "." + from, {from}, to, [=](Operands x) {
               return encode(decode(x.a, source), target, rounding);
             }});
      }
    }
    if (std::string(from) == "f16" || std::string(from) == "bf16") continue;
    const Format& format = format_of(from);
    const std::string type = from;
    for (const auto& [suffix, mode] :
         {std::pair{"rni", Rounding::kNearest}, std::pair{"rzi", Rounding::kZero},
          std::pair{"rmi", Rounding::kDown}, std::pair{"rpi", Rounding::kUp}}) {
      const Rounding rounding = mode;
      run({std::string("cvt.") + suffix + "." + type + "." + type, {type}, type, [=](Operands x) {
             return encode(round_to_integer(decode(x.a, format), rounding), format);
           }});
    }
  }
  for (const char* to : {"f16", "bf16"}) {
    const Format& format = format_of(to);
    run({std::string("cvt.rn.") + to + "x2.f32",
         {"f32", "f32"},
         std::string(to) + "x2",
         [=](Operands x) {
           return encode(decode(x.a, kF32), format) << 16 | encode(decode(x.b, kF32), format);
         }});
  }
}

TEST_F(OpcodeTest, UnknownInstructionsAreErrors) {
  for (const char* opcode :
       {"frobnicate.b32", "add.rq.f32", "setp.lt.nand.s32", "cvt.rn.s32.f32", "min.weird.f32"}) {
    cudasim::clear();
    cudasim::settings().arch = kTestArch;
    const std::string registers = declare("%a", "b32") + declare("%d", "b32");
    cudasim::load_ptx(kTestArch,
                      module_header() + kernel_text("unknown", registers,
                                                    std::string("  ") + opcode + " %d, %a, %a;"));
    void* nothing[] = {&nothing, &nothing, &nothing};
    EXPECT_NE(cudasim::launch("unknown", {1, 1, 1}, {32, 1, 1}, nothing), 0);
    EXPECT_NE(all_reports().find(opcode), std::string::npos) << all_reports();
  }
}

}  // namespace
}  // namespace cudasim_test
