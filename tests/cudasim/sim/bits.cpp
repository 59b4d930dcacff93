// Bit manipulation.
#include <algorithm>
#include <bit>
#include <limits>

#include "operations.h"

namespace cudasim {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
constexpr unsigned kBits = sizeof(T) * 8;

template <class T>
void add_shifts(OperationTable& table, const std::string& bits) {
  using S = std::make_signed_t<T>;
  const auto left = [](T a, uint64_t count) {
    return count >= kBits<T> ? T{0} : static_cast<T>(uint64_t{a} << count);
  };
  const auto right = [](T a, uint64_t count) {
    return count >= kBits<T> ? T{0} : static_cast<T>(a >> count);
  };
  const auto arithmetic = [](T a, uint64_t count) {
    return static_cast<T>(static_cast<S>(a) >> std::min<uint64_t>(count, kBits<T> - 1));
  };
  const auto shift = [&](const std::string& opcode, auto op) {
    using Op = decltype(op);
    const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
      const uint64_t* a = warp.row(instruction.in[0]);
      const uint64_t* count = warp.row(instruction.in[1]);
      write_lanes(warp.row(instruction.out), active, [=](int lane) {
        return to_word(Op()(from_word<T>(a[lane]), static_cast<uint32_t>(count[lane])));
      });
    };
    table.add(opcode, {handler, 2});
  };
  shift("shl.b" + bits, left);
  shift("shr.b" + bits, right);
  shift("shr.u" + bits, right);
  shift("shr.s" + bits, arithmetic);
}

template <class T>
void add_logic(OperationTable& table, const std::string& type) {
  table.binary<T>("and." + type, [](T a, T b) { return static_cast<T>(a & b); });
  table.binary<T>("or." + type, [](T a, T b) { return static_cast<T>(a | b); });
  table.binary<T>("xor." + type, [](T a, T b) { return static_cast<T>(a ^ b); });
  table.unary<T>("not." + type, [](T a) { return static_cast<T>(~a); });
  table.unary<T>("cnot." + type, [](T a) { return static_cast<T>(a == 0); });
}

template <class T>
T reverse_bits(T value) {
  T reversed = 0;
  for (unsigned i = 0; i < kBits<T>; ++i)
    reversed = static_cast<T>(reversed | (value >> i & 1) << (kBits<T> - 1 - i));
  return reversed;
}

template <class T>
T extract_field(T a, uint64_t position, uint64_t length) {
  position &= 255;
  length &= 255;
  if (length == 0) return 0;
  using U = Unsigned<T>;
  const uint64_t sign_at = std::min<uint64_t>(position + length - 1, kBits<T> - 1);
  const bool sign = std::is_signed_v<T> && (static_cast<U>(a) >> sign_at & 1) != 0;
  U field = position >= kBits<T> ? 0 : static_cast<U>(static_cast<U>(a) >> position);
  const uint64_t valid = position >= kBits<T> ? 0 : std::min<uint64_t>(length, kBits<T> - position);
  const U mask = valid >= kBits<T> ? static_cast<U>(~U{0}) : static_cast<U>((U{1} << valid) - 1);
  field &= mask;
  return static_cast<T>(sign ? field | static_cast<U>(~mask) : field);
}

template <class T>
T insert_field(T a, T b, uint64_t position, uint64_t length) {
  position &= 255;
  length &= 255;
  if (position >= kBits<T>) return b;
  const T ones = length >= kBits<T> ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << length) - 1);
  const T mask = static_cast<T>(ones << position);
  return static_cast<T>((b & ~mask) | (a << position & mask));
}

template <class T>
uint32_t find_leading(T value, bool shift_amount) {
  using U = Unsigned<T>;
  const U bits = static_cast<U>(std::is_signed_v<T> && value < 0 ? ~value : value);
  if (bits == 0) return ~0u;
  const auto leading = static_cast<uint32_t>(std::countl_zero(bits));
  return shift_amount ? leading : kBits<T> - 1 - leading;
}

template <class T>
void add_fields(OperationTable& table, const std::string& type) {
  table.unary<T>("bfind." + type, [](T a) { return find_leading(a, false); });
  table.unary<T>("bfind.shiftamt." + type, [](T a) { return find_leading(a, true); });
  const Handler extract = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* position = warp.row(instruction.in[1]);
    const uint64_t* length = warp.row(instruction.in[2]);
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      return to_word(extract_field(from_word<T>(a[lane]), position[lane], length[lane]));
    });
  };
  table.add("bfe." + type, {extract, 3});
}

template <class T>
void add_bit_counts(OperationTable& table, const std::string& type) {
  table.unary<T>("popc." + type, [](T a) { return static_cast<uint32_t>(std::popcount(a)); });
  table.unary<T>("clz." + type, [](T a) { return static_cast<uint32_t>(std::countl_zero(a)); });
  table.unary<T>("brev." + type, [](T a) { return reverse_bits(a); });
  const Handler insert = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    const uint64_t* position = warp.row(instruction.in[2]);
    const uint64_t* length = warp.row(instruction.in[3]);
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      return to_word(
          insert_field(from_word<T>(a[lane]), from_word<T>(b[lane]), position[lane], length[lane]));
    });
  };
  table.add("bfi." + type, {insert, 4});
}

// prmt: four bytes picked from the eight of {b, a}; bit 3 of a selector spreads the sign of the
// byte.
uint32_t permute(uint32_t a, uint32_t b, uint32_t selectors) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned selector = selectors >> (4 * i) & 15;
    uint32_t byte = bytes >> (8 * (selector & 7)) & 0xff;
    if ((selector & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

// The modes of prmt as selectors: .f4e, .b4e, .rc8, .ecl, .ecr, .rc16, for c = 0..3.
void add_permutes(OperationTable& table) {
  table.ternary<uint32_t>("prmt.b32",
                          [](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, c); });
  const auto mode = [&](const std::string& name, auto selectors) {
    using Selectors = decltype(selectors);
    table.ternary<uint32_t>("prmt.b32." + name, [](uint32_t a, uint32_t b, uint32_t c) {
      return permute(a, b, Selectors()(c & 3));
    });
  };
  mode("f4e", [](uint32_t c) { return std::array{0x3210u, 0x4321u, 0x5432u, 0x6543u}[c]; });
  mode("b4e", [](uint32_t c) { return std::array{0x5670u, 0x6701u, 0x7012u, 0x0123u}[c]; });
  mode("rc8", [](uint32_t c) { return std::array{0x0000u, 0x1111u, 0x2222u, 0x3333u}[c]; });
  mode("ecl", [](uint32_t c) { return std::array{0x3210u, 0x3211u, 0x3222u, 0x3333u}[c]; });
  mode("ecr", [](uint32_t c) { return std::array{0x0000u, 0x1110u, 0x2210u, 0x3210u}[c]; });
  mode("rc16", [](uint32_t c) { return std::array{0x1010u, 0x3232u, 0x1010u, 0x3232u}[c]; });
}

void add_funnel_shifts(OperationTable& table) {
  using U = uint32_t;
  const auto left = [](U a, U b, U count) {
    return static_cast<U>(((uint64_t{b} << 32 | a) << count) >> 32);
  };
  const auto right = [](U a, U b, U count) {
    return static_cast<U>((uint64_t{b} << 32 | a) >> count);
  };
  using Left = decltype(left);
  using Right = decltype(right);
  table.ternary<U>("shf.l.wrap.b32", [](U a, U b, U c) { return Left()(a, b, c & 31); });
  table.ternary<U>("shf.r.wrap.b32", [](U a, U b, U c) { return Right()(a, b, c & 31); });
  table.ternary<U>("shf.l.clamp.b32", [](U a, U b, U c) { return Left()(a, b, std::min(c, 32u)); });
  table.ternary<U>("shf.r.clamp.b32",
                   [](U a, U b, U c) { return Right()(a, b, std::min(c, 32u)); });
}

uint32_t bit_mask(uint32_t position, uint32_t length) {
  const uint64_t ones = length >= 32 ? 0xffffffffu : (uint64_t{1} << length) - 1;
  return position >= 32 ? 0 : static_cast<uint32_t>(ones << position);
}

void add_logic3(OperationTable& table) {
  const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    const uint64_t* c = warp.row(instruction.in[2]);
    const auto truth = static_cast<unsigned>(warp.row(instruction.in[3])[0]);
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      uint64_t result = 0;
      for (unsigned i = 0; i < 8; ++i) {
        if ((truth >> i & 1) == 0) continue;
        result |= ((i & 4) != 0 ? a[lane] : ~a[lane]) & ((i & 2) != 0 ? b[lane] : ~b[lane]) &
                  ((i & 1) != 0 ? c[lane] : ~c[lane]);
      }
      return result;
    });
  };
  table.add("lop3.b32", {handler, 4});
}

}  // namespace

void add_bit_operations(OperationTable& table) {
  add_logic<uint16_t>(table, "b16");
  add_logic<uint32_t>(table, "b32");
  add_logic<uint64_t>(table, "b64");
  add_shifts<uint16_t>(table, "16");
  add_shifts<uint32_t>(table, "32");
  add_shifts<uint64_t>(table, "64");
  add_fields<uint32_t>(table, "u32");
  add_fields<int32_t>(table, "s32");
  add_fields<uint64_t>(table, "u64");
  add_fields<int64_t>(table, "s64");
  add_bit_counts<uint32_t>(table, "b32");
  add_bit_counts<uint64_t>(table, "b64");
  add_permutes(table);
  add_funnel_shifts(table);
  add_logic3(table);
  table.binary<uint32_t>("bmsk.clamp.b32", [](uint32_t a, uint32_t b) { return bit_mask(a, b); });
  table.binary<uint32_t>("bmsk.wrap.b32",
                         [](uint32_t a, uint32_t b) { return bit_mask(a & 31, b & 31); });
  table.binary<int32_t>("szext.clamp.s32", [](int32_t a, int32_t b) {
    return static_cast<uint32_t>(b) >= 32 ? a : extract_field(a, 0, static_cast<uint64_t>(b));
  });
  table.binary<uint32_t>("szext.clamp.u32", [](uint32_t a, uint32_t b) {
    return b >= 32 ? a : extract_field(a, 0, b);
  });
}

}  // namespace cudasim
