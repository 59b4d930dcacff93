// Runs one PTX instruction on many operands.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "device.h"

namespace cudasim_test {

inline constexpr int kTestArch = 90;  // modules that tests load as text

struct Operands {
  uint64_t a = 0, b = 0, c = 0;
};

inline std::vector<Operands> random_inputs(size_t count) {
  std::mt19937_64 random(count);
  std::vector<Operands> inputs(count);
  for (Operands& x : inputs) x = {random(), random(), random()};
  return inputs;
}

inline std::string module_header() { return ".version 9.0\n.target sm_90\n.address_size 64\n"; }

// A kernel with the given body. It has pointers %in and %out to 8-byte words (%out is 16 bytes per
// thread), the thread's number %i (64 bits), and registers %a, %b, %c, %d, %e whose types are
// given; `.pred` is a type too.
inline std::string kernel_text(const std::string& name, const std::string& registers,
                               const std::string& body) {
  return ".visible .entry " + name + "(.param .u64 in, .param .u64 out, .param .u32 n)\n{\n" +
         registers +
         R"(
  .reg .b64 %in, %out, %i, %at;
  .reg .b32 %t0, %t1, %t2, %t3;
  .reg .pred %outside;
  mov.u32 %t0, %ctaid.x;
  mov.u32 %t1, %ntid.x;
  mov.u32 %t2, %tid.x;
  mad.lo.s32 %t0, %t0, %t1, %t2;
  ld.param.u32 %t3, [n];
  setp.ge.u32 %outside, %t0, %t3;
  @%outside bra END;
  cvt.u64.u32 %i, %t0;
  ld.param.u64 %in, [in];
  ld.param.u64 %out, [out];
  mad.lo.s64 %in, %i, 24, %in;
  mad.lo.s64 %out, %i, 16, %out;
)" + body +
         "\nEND:\n  ret;\n}\n";
}

// Loads the module, runs its kernel `name` with one thread per input, and returns the two words of
// each.
inline std::vector<std::array<uint64_t, 2>> run_kernel(const std::string& name,
                                                       const std::string& text,
                                                       const std::vector<Operands>& inputs,
                                                       unsigned threads_per_block = 96) {
  cudasim::settings().arch = kTestArch;
  cudasim::load_ptx(kTestArch, module_header() + text);
  DeviceArray<Operands> in(inputs);
  DeviceArray<std::array<uint64_t, 2>> out(inputs.size());
  void *in_pointer = in.data(), *out_pointer = out.data();
  auto count = static_cast<uint32_t>(inputs.size());
  void* arguments[] = {&in_pointer, &out_pointer, &count};
  const unsigned blocks = (count + threads_per_block - 1) / threads_per_block;
  EXPECT_EQ(cudasim::launch(name, {blocks, 1, 1}, {threads_per_block, 1, 1}, arguments), 0)
      << all_reports();
  return out.values();
}

// Bits of a register that holds a value of this type: "s8" needs 16, "pred" has 1.
inline int register_bits(const std::string& type) {
  if (type == "pred") return 1;
  const size_t x2 = type.find("x2");
  const int bits = std::atoi(type.c_str() + type.find_first_of("0123456789"));
  if (x2 != std::string::npos) return type == "f32x2" ? 64 : 32;
  return bits == 8 ? 32 : bits;
}

inline std::string declare(const std::string& name, const std::string& type) {
  const int bits = register_bits(type);
  return "  .reg " + (bits == 1 ? std::string(".pred") : ".b" + std::to_string(bits)) + " " + name +
         ";\n";
}

// "%a = input word `index`" and "output word `index` = %d", for a register of any width.
inline std::string load_operand(const std::string& name, const std::string& type, int index) {
  const int bits = register_bits(type);
  const std::string address = "[%in+" + std::to_string(8 * index) + "]";
  if (bits == 1)
    return "  ld.global.u64 %at, " + address + ";\n  setp.ne.s64 " + name + ", %at, 0;\n";
  return "  ld.global.b" + std::to_string(bits) + " " + name + ", " + address + ";\n";
}

inline std::string store_result(const std::string& name, const std::string& type, int index) {
  const int bits = register_bits(type);
  std::string text;
  if (bits == 1) text = "  selp.b64 %at, 1, 0, " + name + ";\n";
  if (bits == 16 || bits == 32)
    text = "  cvt.u64.u" + std::to_string(bits) + " %at, " + name + ";\n";
  if (bits == 64) text = "  mov.b64 %at, " + name + ";\n";
  return text + "  st.global.u64 [%out+" + std::to_string(8 * index) + "], %at;\n";
}

}  // namespace cudasim_test
