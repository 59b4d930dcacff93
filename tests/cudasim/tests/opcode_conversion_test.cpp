// Conversions, and opcodes that there are not.
#include <utility>

#include "opcodes.h"

namespace cudasim_test {
namespace {

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
