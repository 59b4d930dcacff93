// Runs one opcode on many operands and compares with an oracle: integers in 128 bits, floats in 113
// bits and rounded once.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "oracle.h"
#include "ptx_kernel.h"

namespace cudasim_test {

using Wide = __int128;
using UnsignedWide = unsigned __int128;

struct Case {
  std::string opcode;
  std::vector<std::string> inputs;
  std::string output;
  std::function<uint64_t(Operands)> expected;
};

std::vector<Operands> make_inputs(const std::vector<std::string>& types);

// Compares on all pairs of edge values, then on random ones.
void run(const Case& test);

const Format& format_of(const std::string& type);

class OpcodeTest : public SimulatorTest {};

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

inline const IntegerType kIntegerTypes[] = {{"u16", 16, false}, {"u32", 32, false},
                                            {"u64", 64, false}, {"s16", 16, true},
                                            {"s32", 32, true},  {"s64", 64, true}};

inline const std::pair<const char*, Rounding> kRoundings[] = {{"rn", Rounding::kNearest},
                                                              {"rz", Rounding::kZero},
                                                              {"rm", Rounding::kDown},
                                                              {"rp", Rounding::kUp}};

}  // namespace cudasim_test
