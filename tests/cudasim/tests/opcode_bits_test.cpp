// Bit manipulation.
#include "opcodes.h"

namespace cudasim_test {
namespace {

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

uint64_t bit(uint64_t word, int i) { return word >> i & 1; }

TEST_F(OpcodeTest, BitCounts) {
  for (const int bits : {32, 64}) {
    const std::string b = "b" + std::to_string(bits);
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
  }
}

TEST_F(OpcodeTest, BitFields) {
  for (const int bits : {32, 64}) {
    const std::string b = "b" + std::to_string(bits);
    const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
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
}

TEST_F(OpcodeTest, BitMasks) {
  run({"bmsk.clamp.b32", {"u32", "u32"}, "u32", [](Operands x) {
         uint64_t mask = 0;
         const uint64_t position = static_cast<uint32_t>(x.a), length = static_cast<uint32_t>(x.b);
         for (uint64_t i = position; i < 32 && i < position + length; ++i) mask |= uint64_t{1} << i;
         return mask;
       }});
}

TEST_F(OpcodeTest, BytePermutations) {
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
}

TEST_F(OpcodeTest, FunnelShifts) {
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
}

TEST_F(OpcodeTest, LogicOfThree) {
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
}

TEST_F(OpcodeTest, DotProductsOfBytes) {
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

}  // namespace
}  // namespace cudasim_test
