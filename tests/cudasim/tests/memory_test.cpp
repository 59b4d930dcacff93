// Loads, stores and atomics: PTX text against plain loops.
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <random>

#include "oracle.h"
#include "ptx_kernel.h"

namespace cudasim_test {
namespace {

class MemoryTest : public SimulatorTest {};

TEST_F(MemoryTest, LoadsExtendAndStoresTruncate) {
  struct Load {
    const char* type;
    uint64_t (*expected)(uint64_t);
  };
  const Load loads[] = {
      {"u8", [](uint64_t x) { return x & 0xff; }},
      {"s8", [](uint64_t x) { return static_cast<uint64_t>(static_cast<int8_t>(x)); }},
      {"b16", [](uint64_t x) { return x & 0xffff; }},
      {"s16", [](uint64_t x) { return static_cast<uint64_t>(static_cast<int16_t>(x)); }},
      {"u32", [](uint64_t x) { return x & 0xffffffff; }},
      {"s32", [](uint64_t x) { return static_cast<uint64_t>(static_cast<int32_t>(x)); }},
      {"b64", [](uint64_t x) { return x; }}};
  const std::vector<Operands> inputs = random_inputs(100);
  for (const Load& load : loads) {
    for (const char* space : {"global", "shared", "local"}) {
      SCOPED_TRACE(std::string(load.type) + " " + space);
      const std::string type = load.type;
      const std::string width = type.substr(1);
      std::string address = "[%in+0]", before;
      std::string registers = declare("%d", "u64") + declare("%a", "u64");
      if (std::string(space) != "global") {  // to the other space by 64 bits, back by the type
        registers += std::string("  .") + space + " .align 8 .b8 buffer[" +
                     (space[0] == 's' ? "768" : "8") + "];\n" + "  .reg .b64 %at2;\n";
        before = "  mov.u64 %at2, buffer;\n";
        if (space[0] == 's')
          before += "  cvt.u64.u32 %at, %t2;\n  mad.lo.s64 %at2, %at, 8, %at2;\n";
        before += load_operand("%a", "u64", 0) + "  st." + space + ".u64 [%at2], %a;\n";
        address = "[%at2]";
      }
      const std::string narrow =
          "  ld." + std::string(space) + "." + type + " %d, " + address + ";\n";
      const std::string body =
          before + narrow + store_result("%d", "u64", 0) + "  mov.u64 %at, 0;\n" +
          "  st.global.u64 [%out+8], %at;\n  ld.global.u64 %a, [%in];\n  st.global.b" + width +
          " [%out+8], %a;\n";
      const auto outputs = run_kernel("narrow", kernel_text("narrow", registers, body), inputs);
      EXPECT_EQ(all_reports(), "");
      const uint64_t mask = width == "64" ? ~uint64_t{0} : (uint64_t{1} << std::stoi(width)) - 1;
      for (size_t i = 0; i < inputs.size(); ++i) {
        ASSERT_EQ(outputs[i][0], load.expected(inputs[i].a));
        ASSERT_EQ(outputs[i][1], inputs[i].a & mask);
      }
    }
  }
}

TEST_F(MemoryTest, Vectors) {
  const std::string registers =
      "  .reg .b32 %v0, %v1, %v2, %v3;\n  .reg .b16 %h0, %h1, %h2, %h3;\n  .reg .b64 %w0, %w1;\n"
      "  .shared .align 16 .b8 tile[2048];\n";
  const std::string body =
      "  mov.u64 %at, tile;\n  cvta.shared.u64 %at, %at;\n  cvt.u64.u32 %w0, %t2;\n  mad.lo.s64 %at, %w0, 16, %at;\n"
      "  ld.global.v2.u32 {%v0, %v1}, [%in];\n  ld.global.v2.b32 {%v2, %v3}, [%in+8];\n"
      "  st.v4.u32 [%at], {%v3, %v2, %v1, %v0};\n"  // generic, to shared memory
      "  ld.shared.v2.u64 {%w0, %w1}, [%at + -72057594037927936];\n"
      "  st.global.v2.u64 [%out], {%w0, %w1};\n"
      "  ld.v4.b16 {%h0, _, %h2, %h3}, [%out];\n  st.global.v2.b16 [%out], {%h3, %h2};\n";
  const auto inputs = random_inputs(128);
  const auto outputs = run_kernel("vectors", kernel_text("vectors", registers, body), inputs, 128);
  EXPECT_EQ(all_reports(), "");
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto swap_halves = [](uint64_t x) { return x << 32 | x >> 32; };
    const uint64_t first = swap_halves(inputs[i].b);
    ASSERT_EQ(outputs[i][0],
              (first & ~uint64_t{0xffffffff}) | (first >> 48) | (first >> 16 & 0xffff0000));
    ASSERT_EQ(outputs[i][1], swap_halves(inputs[i].a));
  }
}

TEST_F(MemoryTest, ModuleVariables) {
  const std::string module =
      ".global .align 4 .u32 numbers[4] = {10, 20, 30, 40};\n.const .align 8 .f64 half = 0d3FE0000000000000;\n"
      ".global .align 8 .u64 table[2] = {numbers, generic(numbers)+4};\n.global .align 4 .b8 zeros[8];\n";
  const std::string registers = "  .reg .b64 %d, %p;\n  .reg .b32 %x;\n  .reg .f64 %h;\n";
  const std::string body =
      "  and.b64 %p, %i, 1;\n  mov.u64 %at, table;\n  mad.lo.s64 %at, %p, 8, %at;\n  ld.global.u64 %p, [%at];\n"
      "  ld.global.u32 %x, [%p+8];\n  cvt.u64.u32 %d, %x;\n  st.global.u64 [%out], %d;\n"
      "  ld.const.f64 %h, [half];\n  ld.global.u32 %x, [zeros+4];\n  cvt.rn.f64.u32 %h, %x;\n  ld.const.f64 %h, [half+0];\n"
      "  st.global.f64 [%out+8], %h;\n";
  const auto outputs =
      run_kernel("variables", module + kernel_text("variables", registers, body), random_inputs(6));
  EXPECT_EQ(all_reports(), "");
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_EQ(outputs[i][0], i % 2 == 0 ? 30u : 40u);
    EXPECT_EQ(outputs[i][1], std::bit_cast<uint64_t>(0.5));
  }
}

// ---- Atomics: the result of all lanes, and what each lane saw, in some order.

struct AtomicCase {
  const char* name;
  const char* type;
  uint64_t initial;
  std::function<uint64_t(uint64_t, uint64_t)> next;
};

std::vector<AtomicCase> atomic_cases() {
  const auto u32 = [](auto op) {
    return [op](uint64_t a, uint64_t b) {
      return uint64_t{
          static_cast<uint32_t>(op(static_cast<uint32_t>(a), static_cast<uint32_t>(b)))};
    };
  };
  const auto s32 = [](auto op) {
    return [op](uint64_t a, uint64_t b) {
      return uint64_t{static_cast<uint32_t>(op(static_cast<int32_t>(a), static_cast<int32_t>(b)))};
    };
  };
  const auto min = [](auto a, auto b) { return a < b ? a : b; };
  const auto max = [](auto a, auto b) { return a > b ? a : b; };
  return {
      {"add", "u32", 5, u32([](uint32_t a, uint32_t b) { return a + b; })},
      {"add", "s32", 5, u32([](uint32_t a, uint32_t b) { return a + b; })},
      {"add", "u64", 5, [](uint64_t a, uint64_t b) { return a + b; }},
      {"min", "u32", ~0u, u32(min)},
      {"max", "u32", 0, u32(max)},
      {"min", "s32", 0x7fffffff, s32(min)},
      {"max", "s32", 0x80000000, s32(max)},
      {"min", "u64", ~uint64_t{0}, min},
      {"max", "s64", uint64_t{1} << 63,
       [=](uint64_t a, uint64_t b) {
         return static_cast<uint64_t>(max(static_cast<int64_t>(a), static_cast<int64_t>(b)));
       }},
      {"and", "b32", ~0u, u32([](uint32_t a, uint32_t b) { return a & b; })},
      {"or", "b64", 0, [](uint64_t a, uint64_t b) { return a | b; }},
      {"xor", "b32", 7, u32([](uint32_t a, uint32_t b) { return a ^ b; })},
      {"inc", "u32", 0, u32([](uint32_t a, uint32_t b) { return a >= b ? 0 : a + 1; })},
      {"dec", "u32", 9, u32([](uint32_t a, uint32_t b) { return a == 0 || a > b ? b : a - 1; })},
      {"exch", "b64", 1, [](uint64_t, uint64_t b) { return b; }},
      {"add", "f32", 0x3f800000,
       [](uint64_t a, uint64_t b) { return encode(decode(a, kF32) + decode(b, kF32), kF32); }},
      {"add", "f64", 0x3ff0000000000000,
       [](uint64_t a, uint64_t b) { return encode(decode(a, kF64) + decode(b, kF64), kF64); }},
      {"add.noftz", "f16", 0x3c00,
       [](uint64_t a, uint64_t b) { return encode(decode(a, kF16) + decode(b, kF16), kF16); }},
      {"add.noftz", "bf16", 0x3f80,
       [](uint64_t a, uint64_t b) { return encode(decode(a, kBF16) + decode(b, kBF16), kBF16); }},
  };
}

void check_atomic(const AtomicCase& test, std::mt19937_64& random) {
  SCOPED_TRACE(std::string(test.name) + "." + test.type);
  const std::string type = test.type;
  std::vector<Operands> inputs(64);
  for (Operands& x : inputs) {
    const double value = static_cast<double>(random() % 64) - 32;
    x.a = type == "f16"    ? encode(value, kF16)
          : type == "bf16" ? encode(value, kBF16)
          : type == "f32"  ? encode(value, kF32)
          : type == "f64"  ? encode(value, kF64)
                           : random() % 1000;
  }
  inputs[0].b = test.initial;  // all lanes work on input[0].b
  const int bits = register_bits(type);
  const std::string body = load_operand("%a", type, 0) +
                           "  ld.param.u64 %at, [in];\n  atom.global." + test.name + "." + type +
                           " %d, [%at+8], %a;\n" + store_result("%d", type, 0) +
                           "  mov.b64 %at, 0;\n  st.global.u64 [%out+8], %at;\n";
  cudasim::settings().arch = kTestArch;
  const auto outputs =
      run_kernel("atomics", kernel_text("atomics", declare("%a", type) + declare("%d", type), body),
                 inputs, 64);
  EXPECT_EQ(all_reports(), "");
  // Lanes of a warp go in order; either warp may be first.
  const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  const auto as_if_first = [&](size_t first_lane) {
    uint64_t value = test.initial;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const size_t lane = (first_lane + i) % inputs.size();
      if (outputs[lane][0] != value) return false;
      value = test.next(value, inputs[lane].a) & mask;
    }
    return true;
  };
  EXPECT_TRUE(as_if_first(0) || as_if_first(32));
}

TEST_F(MemoryTest, Atomics) {
  std::mt19937_64 random(1);
  for (const AtomicCase& test : atomic_cases()) check_atomic(test, random);
}

TEST_F(MemoryTest, CompareAndSwap) {
  // A spin lock per warp-sized group: every lane adds its number by a cas loop.
  const std::string registers = "  .reg .b64 %d, %old, %new, %a;\n  .reg .pred %again;\n";
  const std::string body =
      load_operand("%a", "u64", 0) +
      "  ld.param.u64 %at, [in];\n  ld.relaxed.gpu.global.u64 %old, [%at+8];\nAGAIN:\n  add.u64 %new, %old, %a;\n"
      "  mov.u64 %d, %old;\n  atom.global.cas.b64 %old, [%at+8], %d, %new;\n"
      "  setp.ne.u64 %again, %old, %d;\n  @%again bra AGAIN;\n" +
      store_result("%d", "u64", 0) + store_result("%new", "u64", 1);
  auto inputs = random_inputs(200);
  inputs[0].b = 1;
  uint64_t sum = 1;
  for (const Operands& x : inputs) sum += x.a;
  const auto outputs = run_kernel("cas", kernel_text("cas", registers, body), inputs, 64);
  EXPECT_EQ(all_reports(), "");
  const bool found =
      std::any_of(outputs.begin(), outputs.end(), [&](const auto& out) { return out[1] == sum; });
  EXPECT_TRUE(found);
}

TEST_F(MemoryTest, HugeSparseTablesCostWhatIsTouched) {
  constexpr size_t kBytes = size_t{1} << 36;
  void* table = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(table, MAP_FAILED);
  cudasim::add_memory(table, kBytes, true);
  const std::string registers = declare("%a", "u64") + declare("%d", "u32");
  const std::string body =
      load_operand("%a", "u64", 0) +
      "  ld.global.u32 %d, [%a];\n  add.s32 %d, %d, 1;\n  st.global.u32 [%a], %d;\n" +
      store_result("%d", "u32", 0) + store_result("%d", "u32", 1);
  std::vector<Operands> inputs(64);
  for (size_t i = 0; i < inputs.size(); ++i)
    inputs[i].a = reinterpret_cast<uint64_t>(table) + kBytes / 64 * i + 4 * i;
  for (const auto& out : run_kernel("huge", kernel_text("huge", registers, body), inputs))
    EXPECT_EQ(out[0], 1u);
  EXPECT_EQ(all_reports(), "");
  cudasim::remove_memory(table);
  munmap(table, kBytes);
}

}  // namespace
}  // namespace cudasim_test
