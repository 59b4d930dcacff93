#include "opcodes.h"

#include <cmath>
#include <random>

namespace cudasim_test {

const Format& format_of(const std::string& type) {
  if (type == "f16") return kF16;
  if (type == "bf16") return kBF16;
  return type == "f32" ? kF32 : kF64;
}

namespace {

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

}  // namespace

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

}  // namespace cudasim_test
