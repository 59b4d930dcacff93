// cvt and cvta: every source type to every destination type.
#include <cfenv>
#include <limits>
#include <string>
#include <vector>

#include "operations.h"

namespace cudasim {
namespace {

// Instruction::variant of a conversion.
enum Round : uint8_t { kNearest, kZero, kDown, kUp };
constexpr uint8_t kRoundMask = 3, kFlush = 4, kSaturate = 8, kRelu = 16;

template <class T>
constexpr bool kIsFloat = !std::is_integral_v<T>;

template <class T>
T round_to_integral(T value, uint8_t variant) {
  switch (variant & kRoundMask) {
    case kZero:
      return std::trunc(value);
    case kDown:
      return std::floor(value);
    case kUp:
      return std::ceil(value);
    default:
      return std::nearbyint(value);
  }
}

// The value in the widest type that holds every source: double for floats, and float32 stays exact
// in it.
template <class To>
To float_to_integer(double value, uint8_t variant, bool wide) {
  using Limits = std::numeric_limits<To>;
  if (std::isnan(value)) return wide ? static_cast<To>(uint64_t{1} << (sizeof(To) * 8 - 1)) : To{0};
  const double integral = round_to_integral(value, variant);
  if (integral <= static_cast<double>(Limits::min())) return Limits::min();
  if (integral >= std::ldexp(1.0, Limits::digits)) return Limits::max();
  return static_cast<To>(integral);
}

template <class To, class From>
To with_rounding(From value, uint8_t variant) {
  constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  if ((variant & kRoundMask) == kNearest) return static_cast<To>(value);
  std::fesetround(kModes[variant & kRoundMask]);
  volatile From input = value;
  volatile To result = static_cast<To>(input);
  std::fesetround(FE_TONEAREST);
  return result;
}

// To a 16-bit float by truncation: only the magnitude of the nearest one can be wrong, by one step.
template <class To>
To truncated(double value) {
  To result(value);
  if (std::isnan(value) ||
      std::fabs(static_cast<double>(static_cast<float>(result))) <= std::fabs(value))
    return result;
  --result.bits;
  return result;
}

template <class To>
To to_float(double value, uint8_t variant) {
  if constexpr (std::is_same_v<To, double>) {
    return value;
  } else if constexpr (std::is_same_v<To, float>) {
    return canonical(with_rounding<float>(value, variant));
  } else {
    return (variant & kRoundMask) == kZero ? truncated<To>(value) : To(value);
  }
}

template <class To>
To clamp(To value) {
  const double x = static_cast<double>(value);
  if (x > 0) return x < 1 ? value : To(1.0);
  return To(0.0);
}

template <class From>
double as_double(From value, uint8_t variant) {
  if constexpr (std::is_same_v<From, float>) {
    if ((variant & kFlush) != 0) value = flush(value);
  }
  return static_cast<double>(value);
}

template <class To, class From>
To convert(From value, uint8_t variant, bool integral) {
  if constexpr (!kIsFloat<To> && !kIsFloat<From>) {
    if ((variant & kSaturate) == 0) return static_cast<To>(value);
    const auto wide = static_cast<__int128>(value);
    if (wide < std::numeric_limits<To>::min()) return std::numeric_limits<To>::min();
    return wide > std::numeric_limits<To>::max() ? std::numeric_limits<To>::max()
                                                 : static_cast<To>(value);
  } else if constexpr (!kIsFloat<To>) {
    return float_to_integer<To>(as_double(value, variant), variant,
                                sizeof(To) == 8 || sizeof(From) == 8);
  } else if constexpr (!kIsFloat<From>) {
    To result;
    if constexpr (sizeof(To) >= 4) {
      result = with_rounding<To>(value, variant);
    } else {  // a long long is not exact in a double; a float16 is too small for it to matter,
              // unless it is a tie
      const auto nearest = static_cast<double>(value);
      const double odd = static_cast<From>(nearest) == value
                             ? nearest
                             : add_to_odd(nearest, value > 0 ? 0.25 : -0.25);
      result = to_float<To>(odd, variant);
    }
    return (variant & kSaturate) != 0 ? clamp(result) : result;
  } else {
    double exact = as_double(value, variant);
    if (integral) exact = round_to_integral(exact, variant);
    To result = to_float<To>(exact, integral ? uint8_t{kNearest} : variant);
    if constexpr (std::is_same_v<To, float>) {
      if ((variant & kFlush) != 0) result = flush(result);
    }
    if ((variant & kRelu) != 0 && !(static_cast<double>(result) > 0) && !std::isnan(exact))
      result = To(0.0);
    return (variant & kSaturate) != 0 ? clamp(result) : result;
  }
}

template <class To, class From, bool kIntegral>
void convert_lanes(const Instruction& instruction, Warp& warp, uint32_t active) {
  const uint64_t* a = warp.row(instruction.in[0]);
  const uint8_t variant = instruction.variant;
  if (variant == 0) {
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      return to_word(convert<To>(from_word<From>(a[lane]), 0, kIntegral));
    });
  } else {
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      return to_word(convert<To>(from_word<From>(a[lane]), variant, kIntegral));
    });
  }
}

struct RoundName {
  const char* name;
  Round round;
};
constexpr RoundName kFloatRounds[] = {
    {".rn", kNearest}, {".rz", kZero}, {".rm", kDown}, {".rp", kUp}};
constexpr RoundName kIntegerRounds[] = {
    {".rni", kNearest}, {".rzi", kZero}, {".rmi", kDown}, {".rpi", kUp}};
constexpr RoundName kNoRound[] = {{"", kNearest}};

template <class To, class From>
void add_conversion(OperationTable& table, const std::string& to, const std::string& from) {
  const auto add = [&](const auto& rounds, Handler handler) {
    for (const RoundName& round : rounds) {
      for (const uint8_t flush : {uint8_t{0}, kFlush}) {
        for (const uint8_t saturate : {uint8_t{0}, kSaturate}) {
          const std::string opcode = std::string("cvt") + round.name + (flush != 0 ? ".ftz" : "") +
                                     (saturate != 0 ? ".sat." : ".") + to + "." + from;
          table.add(opcode, {handler, 1, static_cast<uint8_t>(round.round | flush | saturate)});
        }
      }
    }
  };
  if constexpr (!kIsFloat<To> && !kIsFloat<From>) {
    add(kNoRound, convert_lanes<To, From, false>);
  } else if constexpr (!kIsFloat<To>) {
    add(kIntegerRounds, convert_lanes<To, From, true>);
  } else if constexpr (!kIsFloat<From>) {
    add(kFloatRounds, convert_lanes<To, From, false>);
  } else {
    if constexpr (sizeof(To) >= sizeof(From)) add(kNoRound, convert_lanes<To, From, false>);
    if constexpr (sizeof(To) < sizeof(From)) add(kFloatRounds, convert_lanes<To, From, false>);
    if constexpr (sizeof(To) == sizeof(From)) add(kIntegerRounds, convert_lanes<To, From, true>);
  }
}

// Two float32 into the two halves of a register: the first operand is the high one.
template <class T>
void add_packing(OperationTable& table, const std::string& type) {
  for (const RoundName& round : {RoundName{".rn", kNearest}, RoundName{".rz", kZero}}) {
    for (const uint8_t relu : {uint8_t{0}, kRelu}) {
      const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
        const uint64_t* high = warp.row(instruction.in[0]);
        const uint64_t* low = warp.row(instruction.in[1]);
        const uint8_t variant = instruction.variant;
        write_lanes(warp.row(instruction.out), active, [=](int lane) {
          const uint64_t high_bits = convert<T>(from_word<float>(high[lane]), variant, false).bits;
          return high_bits << 16 | convert<T>(from_word<float>(low[lane]), variant, false).bits;
        });
      };
      const std::string opcode =
          std::string("cvt") + round.name + (relu != 0 ? ".relu." : ".") + type + ".f32";
      table.add(opcode, {handler, 2, static_cast<uint8_t>(round.round | relu)});
    }
  }
}

template <class To>
void add_conversions_to(OperationTable& table, const std::string& to) {
  add_conversion<To, uint8_t>(table, to, "u8");
  add_conversion<To, uint16_t>(table, to, "u16");
  add_conversion<To, uint32_t>(table, to, "u32");
  add_conversion<To, uint64_t>(table, to, "u64");
  add_conversion<To, int8_t>(table, to, "s8");
  add_conversion<To, int16_t>(table, to, "s16");
  add_conversion<To, int32_t>(table, to, "s32");
  add_conversion<To, int64_t>(table, to, "s64");
  add_conversion<To, float>(table, to, "f32");
  add_conversion<To, double>(table, to, "f64");
  add_conversion<To, F16>(table, to, "f16");
  add_conversion<To, BF16>(table, to, "bf16");
}

template <uint64_t kWindow>
void add_address_conversion(OperationTable& table, const std::string& space) {
  table.unary<uint64_t>("cvta." + space + ".u64",
                        [](uint64_t address) { return address | kWindow; });
  table.unary<uint64_t>("cvta.to." + space + ".u64",
                        [](uint64_t address) { return address & ~kWindow; });
  const Handler is_in_space = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    uint32_t result = 0;
    for (int lane = 0; lane < kLanes; ++lane)
      result |= uint32_t{(a[lane] & kWindowMask) == kWindow} << lane;
    warp.set_predicate(instruction.out, active, result);
  };
  table.add("isspacep." + space, {is_in_space, 1});
}

}  // namespace

void add_conversions(OperationTable& table) {
  add_conversions_to<uint8_t>(table, "u8");
  add_conversions_to<uint16_t>(table, "u16");
  add_conversions_to<uint32_t>(table, "u32");
  add_conversions_to<uint64_t>(table, "u64");
  add_conversions_to<int8_t>(table, "s8");
  add_conversions_to<int16_t>(table, "s16");
  add_conversions_to<int32_t>(table, "s32");
  add_conversions_to<int64_t>(table, "s64");
  add_conversions_to<float>(table, "f32");
  add_conversions_to<double>(table, "f64");
  add_conversions_to<F16>(table, "f16");
  add_conversions_to<BF16>(table, "bf16");
  add_packing<F16>(table, "f16x2");
  add_packing<BF16>(table, "bf16x2");
  for (const char* type : {"f16.f32", "bf16.f32"}) {
    Operation relu = *table.find(std::string("cvt.rn.") + type);
    relu.variant |= kRelu;
    table.add(std::string("cvt.rn.relu.") + type, relu);
  }
  add_address_conversion<0>(table, "global");
  add_address_conversion<0>(table, "const");
  add_address_conversion<kSharedWindow>(table, "shared");
  add_address_conversion<kLocalWindow>(table, "local");
  add_address_conversion<kParamWindow>(table, "param");
}

}  // namespace cudasim
