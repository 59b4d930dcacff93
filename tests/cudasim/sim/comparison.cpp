// setp, set, selp, slct, testp, and predicates as operands of mov, and, or, xor, not.
#include <array>
#include <string>

#include "operations.h"

namespace cudasim {
namespace {

enum Combine : uint8_t { kAlone, kAnd, kOr, kXor };

uint32_t combine(uint8_t how, uint32_t result, uint32_t with) {
  switch (how) {
    case kAnd:
      return result & with;
    case kOr:
      return result | with;
    case kXor:
      return result ^ with;
    default:
      return result;
  }
}

template <class T, bool kFlush, class Compare>
uint32_t compare_lanes(const uint64_t* a, const uint64_t* b) {
  uint32_t result = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    T x = from_word<T>(a[lane]), y = from_word<T>(b[lane]);
    if constexpr (kFlush) {
      x = flush(x);
      y = flush(y);
    }
    result |= uint32_t{Compare()(x, y)} << lane;
  }
  return result;
}

struct CombineName {
  const char* suffix;
  Combine how;
};
constexpr std::array<CombineName, 4> kCombines = {
    {{"", kAlone}, {".and", kAnd}, {".or", kOr}, {".xor", kXor}}};

template <class T, bool kFlush, class Compare>
void add_comparison(OperationTable& table, const std::string& name, const std::string& type,
                    Compare) {
  const Handler setp = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint32_t result =
        compare_lanes<T, kFlush, Compare>(warp.row(instruction.in[0]), warp.row(instruction.in[1]));
    const uint32_t with = warp.predicate(instruction.in[2]);
    const uint32_t first = combine(instruction.variant, result, with);
    const uint32_t second = combine(instruction.variant, ~result, with);
    warp.set_predicate(instruction.out, active, first);
    warp.set_predicate(instruction.out2, active, second);
  };
  const Handler set_ones = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint32_t result = combine(
        instruction.variant,
        compare_lanes<T, kFlush, Compare>(warp.row(instruction.in[0]), warp.row(instruction.in[1])),
        warp.predicate(instruction.in[2]));
    write_lanes(warp.row(instruction.out), active,
                [=](int lane) { return (result >> lane & 1) != 0 ? uint64_t{0xffffffff} : 0; });
  };
  const Handler set_float = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint32_t result = combine(
        instruction.variant,
        compare_lanes<T, kFlush, Compare>(warp.row(instruction.in[0]), warp.row(instruction.in[1])),
        warp.predicate(instruction.in[2]));
    write_lanes(warp.row(instruction.out), active,
                [=](int lane) { return (result >> lane & 1) != 0 ? to_word(1.0f) : 0; });
  };
  const std::string flush = kFlush ? ".ftz." : ".";
  for (const CombineName& combine_name : kCombines) {
    const uint8_t inputs = combine_name.how == kAlone ? 2 : 3;
    const std::string middle = "." + name + combine_name.suffix + flush;
    table.add("setp" + middle + type, {setp, inputs, combine_name.how});
    table.add("set" + middle + "u32." + type, {set_ones, inputs, combine_name.how});
    table.add("set" + middle + "s32." + type, {set_ones, inputs, combine_name.how});
    table.add("set" + middle + "f32." + type, {set_float, inputs, combine_name.how});
  }
}

template <class T>
void add_equality(OperationTable& table, const std::string& type) {
  add_comparison<T, false>(table, "eq", type, [](T a, T b) { return a == b; });
  add_comparison<T, false>(table, "ne", type, [](T a, T b) { return a != b; });
}

template <class T>
void add_integer_comparisons(OperationTable& table, const std::string& type) {
  add_equality<T>(table, type);
  const auto less = [](T a, T b) { return a < b; };
  const auto less_equal = [](T a, T b) { return a <= b; };
  const auto greater = [](T a, T b) { return a > b; };
  const auto greater_equal = [](T a, T b) { return a >= b; };
  add_comparison<T, false>(table, "lt", type, less);
  add_comparison<T, false>(table, "le", type, less_equal);
  add_comparison<T, false>(table, "gt", type, greater);
  add_comparison<T, false>(table, "ge", type, greater_equal);
  if constexpr (std::is_unsigned_v<T>) {
    add_comparison<T, false>(table, "lo", type, less);
    add_comparison<T, false>(table, "ls", type, less_equal);
    add_comparison<T, false>(table, "hi", type, greater);
    add_comparison<T, false>(table, "hs", type, greater_equal);
  }
}

template <class T, bool kFlush>
void add_float_comparisons(OperationTable& table, const std::string& type) {
  using F = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const auto add = [&](const std::string& name, auto ordered) {
    using Ordered = decltype(ordered);
    add_comparison<T, kFlush>(table, name, type, [](T a, T b) { return Ordered()(F(a), F(b)); });
    add_comparison<T, kFlush>(table, name + "u", type, [](T a, T b) {
      return std::isnan(F(a)) || std::isnan(F(b)) || Ordered()(F(a), F(b));
    });
  };
  add("eq", [](F a, F b) { return a == b; });
  add("ne", [](F a, F b) { return a < b || a > b; });
  add("lt", [](F a, F b) { return a < b; });
  add("le", [](F a, F b) { return a <= b; });
  add("gt", [](F a, F b) { return a > b; });
  add("ge", [](F a, F b) { return a >= b; });
  add_comparison<T, kFlush>(table, "num", type,
                            [](T a, T b) { return !std::isnan(F(a)) && !std::isnan(F(b)); });
  add_comparison<T, kFlush>(table, "nan", type,
                            [](T a, T b) { return std::isnan(F(a)) || std::isnan(F(b)); });
}

void add_selections(OperationTable& table) {
  const Handler select = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    const uint32_t condition = warp.predicate(instruction.in[2]);
    write_lanes(warp.row(instruction.out), active,
                [=](int lane) { return (condition >> lane & 1) != 0 ? a[lane] : b[lane]; });
  };
  const Handler select_sign = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    const uint64_t* sign = warp.row(instruction.in[2]);
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      return static_cast<int32_t>(sign[lane]) >= 0 ? a[lane] : b[lane];
    });
  };
  const Handler select_float_sign = [](const Instruction& instruction, Warp& warp,
                                       uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    const uint64_t* sign = warp.row(instruction.in[2]);
    write_lanes(warp.row(instruction.out), active,
                [=](int lane) { return from_word<float>(sign[lane]) >= 0 ? a[lane] : b[lane]; });
  };
  for (const char* type :
       {"b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"}) {
    table.add(std::string("selp.") + type, {select, 3});
    table.add(std::string("slct.") + type + ".s32", {select_sign, 3});
    table.add(std::string("slct.") + type + ".f32", {select_float_sign, 3});
  }
}

template <class T, class Test>
void add_test(OperationTable& table, const std::string& opcode, Test) {
  const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    uint32_t result = 0;
    for_each_lane(active,
                  [&](int lane) { result |= uint32_t{Test()(from_word<T>(a[lane]))} << lane; });
    warp.set_predicate(instruction.out, active, result);
  };
  table.add(opcode, {handler, 1});
}

template <class T>
void add_tests(OperationTable& table, const std::string& type) {
  add_test<T>(table, "testp.finite." + type, [](T a) { return std::isfinite(a); });
  add_test<T>(table, "testp.infinite." + type, [](T a) { return std::isinf(a); });
  add_test<T>(table, "testp.number." + type, [](T a) { return !std::isnan(a); });
  add_test<T>(table, "testp.notanumber." + type, [](T a) { return std::isnan(a); });
  add_test<T>(table, "testp.normal." + type, [](T a) { return std::isnormal(a); });
  add_test<T>(table, "testp.subnormal." + type,
              [](T a) { return std::fpclassify(a) == FP_SUBNORMAL; });
}

template <class Op>
void add_predicate_operation(OperationTable& table, const std::string& opcode, uint8_t inputs, Op) {
  const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint32_t result =
        Op()(warp.predicate(instruction.in[0]), warp.predicate(instruction.in[1]));
    warp.set_predicate(instruction.out, active, result);
  };
  table.add(opcode, {handler, inputs});
}

}  // namespace

void add_comparisons(OperationTable& table) {
  add_equality<uint16_t>(table, "b16");
  add_equality<uint32_t>(table, "b32");
  add_equality<uint64_t>(table, "b64");
  add_integer_comparisons<uint16_t>(table, "u16");
  add_integer_comparisons<uint32_t>(table, "u32");
  add_integer_comparisons<uint64_t>(table, "u64");
  add_integer_comparisons<int16_t>(table, "s16");
  add_integer_comparisons<int32_t>(table, "s32");
  add_integer_comparisons<int64_t>(table, "s64");
  add_float_comparisons<float, false>(table, "f32");
  add_float_comparisons<float, true>(table, "f32");
  add_float_comparisons<double, false>(table, "f64");
  add_float_comparisons<F16, false>(table, "f16");
  add_float_comparisons<BF16, false>(table, "bf16");
  add_selections(table);
  add_tests<float>(table, "f32");
  add_tests<double>(table, "f64");
  add_predicate_operation(table, "mov.pred", 1, [](uint32_t a, uint32_t) { return a; });
  add_predicate_operation(table, "not.pred", 1, [](uint32_t a, uint32_t) { return ~a; });
  add_predicate_operation(table, "and.pred", 2, [](uint32_t a, uint32_t b) { return a & b; });
  add_predicate_operation(table, "or.pred", 2, [](uint32_t a, uint32_t b) { return a | b; });
  add_predicate_operation(table, "xor.pred", 2, [](uint32_t a, uint32_t b) { return a ^ b; });
}

}  // namespace cudasim
