// Integer arithmetic.
#include <algorithm>
#include <bit>
#include <limits>

#include "operations.h"

namespace cudasim {
namespace {

template <class T>
using Wide =
    std::conditional_t<sizeof(T) == 8,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                       std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
constexpr unsigned kBits = sizeof(T) * 8;

// Arithmetic modulo 2^n, without the undefined behaviour of signed overflow or the promotion of 16
// bits to int.
template <class T>
T wrap(uint64_t value) {
  return static_cast<T>(value);
}

template <class T>
T high_half(T a, T b) {
  return static_cast<T>((Wide<T>{a} * Wide<T>{b}) >> kBits<T>);
}

template <class T>
T divide(T a, T b) {
  if (b == 0)
    return static_cast<T>(~T{0});  // PTX leaves it open; this is what the hardware returns
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return wrap<T>(0 - static_cast<uint64_t>(a));
  return static_cast<T>(a / b);
}

template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <class T>
void add_arithmetic(OperationTable& table, const std::string& type) {
  const auto add = [](T a, T b) {
    return wrap<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  };
  table.binary<T>("add." + type, add);
  table.binary<T>("sub." + type, [](T a, T b) {
    return wrap<T>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
  });
  table.binary<T>("mul.lo." + type, [](T a, T b) {
    return wrap<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
  });
  table.binary<T>("mul.hi." + type, [](T a, T b) { return high_half(a, b); });
  table.ternary<T>("mad.lo." + type, [](T a, T b, T c) {
    return wrap<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b) + static_cast<uint64_t>(c));
  });
  table.ternary<T>("mad.hi." + type, [](T a, T b, T c) {
    return wrap<T>(static_cast<uint64_t>(high_half(a, b)) + static_cast<uint64_t>(c));
  });
  table.binary<T>("div." + type, [](T a, T b) { return divide(a, b); });
  table.binary<T>("rem." + type, [](T a, T b) { return remainder(a, b); });
  table.binary<T>("min." + type, [](T a, T b) { return std::min(a, b); });
  table.binary<T>("max." + type, [](T a, T b) { return std::max(a, b); });
  table.ternary<T>("sad." + type, [](T a, T b, T c) {
    const uint64_t difference = a < b ? static_cast<uint64_t>(b) - static_cast<uint64_t>(a)
                                      : static_cast<uint64_t>(a) - static_cast<uint64_t>(b);
    return wrap<T>(static_cast<uint64_t>(c) + difference);
  });
  if constexpr (std::is_signed_v<T>) {
    table.unary<T>("neg." + type, [](T a) { return wrap<T>(0 - static_cast<uint64_t>(a)); });
    table.unary<T>("abs." + type,
                   [](T a) { return a < 0 ? wrap<T>(0 - static_cast<uint64_t>(a)) : a; });
  }
}

template <class T, class Result>
void add_wide(OperationTable& table, const std::string& type) {
  table.binary<T>("mul.wide." + type,
                  [](T a, T b) { return static_cast<Result>(Result{a} * Result{b}); });
  const Handler multiply_add = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    const uint64_t* c = warp.row(instruction.in[2]);
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      const auto product =
          static_cast<Result>(Result{from_word<T>(a[lane])} * Result{from_word<T>(b[lane])});
      return static_cast<uint64_t>(product) + c[lane];
    });
  };
  table.add("mad.wide." + type, {multiply_add, 3});
}

template <class T>
void add_saturating(OperationTable& table) {
  const auto clamp = [](int64_t value) {
    return static_cast<int32_t>(std::clamp<int64_t>(value, std::numeric_limits<int32_t>::min(),
                                                    std::numeric_limits<int32_t>::max()));
  };
  using Clamp = decltype(clamp);
  table.binary<T>("add.sat.s32", [](T a, T b) { return Clamp()(int64_t{a} + b); });
  table.binary<T>("sub.sat.s32", [](T a, T b) { return Clamp()(int64_t{a} - b); });
}

// add.cc, addc, sub.cc, subc, mad.cc, madc: the carry of each lane is a bit of Warp::carry.
template <class T, bool kUseCarry, bool kSetCarry, class Op>
void add_carry(OperationTable& table, const std::string& opcode, uint8_t inputs, Op) {
  const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    const uint64_t* c = warp.row(instruction.in[2]);
    uint64_t* out = warp.row(instruction.out);
    for_each_lane(active, [&](int lane) {
      const unsigned carry_in = kUseCarry ? warp.carry >> lane & 1 : 0;
      bool carry_out = false;
      out[lane] = Op()(from_word<T>(a[lane]), from_word<T>(b[lane]), from_word<T>(c[lane]),
                       carry_in, carry_out);
      if (kSetCarry) warp.carry = (warp.carry & ~(1u << lane)) | uint32_t{carry_out} << lane;
    });
  };
  table.add(opcode, {handler, inputs});
}

template <class T, class Op>
void add_carry_forms(OperationTable& table, const std::string& name, const std::string& middle,
                     const std::string& type, uint8_t inputs, Op op) {
  add_carry<T, false, true>(table, name + middle + ".cc." + type, inputs, op);
  add_carry<T, true, true>(table, name + "c" + middle + ".cc." + type, inputs, op);
  add_carry<T, true, false>(table, name + "c" + middle + "." + type, inputs, op);
}

template <class T>
void add_extended_precision(OperationTable& table, const std::string& type) {
  using U = Unsigned<T>;
  const auto sum = [](T a, T b, T, unsigned carry_in, bool& carry_out) {
    const auto wide =
        static_cast<unsigned __int128>(static_cast<U>(a)) + static_cast<U>(b) + carry_in;
    carry_out = (wide >> kBits<T>) != 0;
    return static_cast<uint64_t>(wide);
  };
  const auto difference = [](T a, T b, T, unsigned borrow_in, bool& borrow_out) {
    const auto subtrahend = static_cast<unsigned __int128>(static_cast<U>(b)) + borrow_in;
    borrow_out = static_cast<U>(a) < subtrahend;
    return static_cast<uint64_t>(static_cast<U>(a)) - static_cast<uint64_t>(subtrahend);
  };
  const auto low_product_sum = [](T a, T b, T c, unsigned carry_in, bool& carry_out) {
    const auto product = static_cast<U>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    const auto wide = static_cast<unsigned __int128>(product) + static_cast<U>(c) + carry_in;
    carry_out = (wide >> kBits<T>) != 0;
    return static_cast<uint64_t>(wide);
  };
  const auto high_product_sum = [](T a, T b, T c, unsigned carry_in, bool& carry_out) {
    const auto wide = static_cast<unsigned __int128>(static_cast<U>(high_half(a, b))) +
                      static_cast<U>(c) + carry_in;
    carry_out = (wide >> kBits<T>) != 0;
    return static_cast<uint64_t>(wide);
  };
  add_carry_forms<T>(table, "add", "", type, 2, sum);
  add_carry_forms<T>(table, "sub", "", type, 2, difference);
  add_carry_forms<T>(table, "mad", ".lo", type, 3, low_product_sum);
  add_carry_forms<T>(table, "mad", ".hi", type, 3, high_product_sum);
}

template <class T>
T multiply24(T a, T b) {
  const auto sign_extended = [](T x) {
    return std::is_signed_v<T>
               ? static_cast<int64_t>(static_cast<int32_t>(static_cast<uint32_t>(x) << 8) >> 8)
               : static_cast<int64_t>(static_cast<uint32_t>(x) & 0xffffff);
  };
  return wrap<T>(static_cast<uint64_t>(sign_extended(a) * sign_extended(b)));
}

template <class T>
void add_24_bit(OperationTable& table, const std::string& type) {
  table.binary<T>("mul24.lo." + type, [](T a, T b) { return multiply24(a, b); });
  table.ternary<T>("mad24.lo." + type, [](T a, T b, T c) {
    return wrap<T>(static_cast<uint64_t>(multiply24(a, b)) + static_cast<uint64_t>(c));
  });
}

template <class A, class B>
void add_dot_product(OperationTable& table, const std::string& types) {
  table.ternary<uint32_t>("dp4a." + types, [](uint32_t a, uint32_t b, uint32_t c) {
    for (unsigned i = 0; i < 32; i += 8) {
      c += static_cast<uint32_t>(static_cast<A>(a >> i) * static_cast<B>(b >> i));
    }
    return c;
  });
}

}  // namespace

void add_integer_operations(OperationTable& table) {
  add_arithmetic<uint16_t>(table, "u16");
  add_arithmetic<uint32_t>(table, "u32");
  add_arithmetic<uint64_t>(table, "u64");
  add_arithmetic<int16_t>(table, "s16");
  add_arithmetic<int32_t>(table, "s32");
  add_arithmetic<int64_t>(table, "s64");
  add_wide<uint16_t, uint32_t>(table, "u16");
  add_wide<uint32_t, uint64_t>(table, "u32");
  add_wide<int16_t, int32_t>(table, "s16");
  add_wide<int32_t, int64_t>(table, "s32");
  add_saturating<int32_t>(table);
  add_extended_precision<uint32_t>(table, "u32");
  add_extended_precision<int32_t>(table, "s32");
  add_extended_precision<uint64_t>(table, "u64");
  add_extended_precision<int64_t>(table, "s64");
  add_24_bit<uint32_t>(table, "u32");
  add_24_bit<int32_t>(table, "s32");
  add_dot_product<uint8_t, uint8_t>(table, "u32.u32");
  add_dot_product<uint8_t, int8_t>(table, "u32.s32");
  add_dot_product<int8_t, uint8_t>(table, "s32.u32");
  add_dot_product<int8_t, int8_t>(table, "s32.s32");
}

}  // namespace cudasim
