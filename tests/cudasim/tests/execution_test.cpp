// Warps, barriers and control flow: PTX text against plain loops.
#include <algorithm>

#include "oracle.h"
#include "ptx_kernel.h"

namespace cudasim_test {
namespace {

class ExecutionTest : public SimulatorTest {};

// ---- Warps.

TEST_F(ExecutionTest, Shuffles) {
  const auto inputs = random_inputs(64);
  struct Mode {
    const char* name;
    int clamp;
  };
  for (const Mode& mode : {Mode{"up", 0}, Mode{"down", 31}, Mode{"bfly", 31}, Mode{"idx", 31}}) {
    for (const int width : {32, 16, 4}) {
      for (const int amount : {0, 1, 5, 17}) {
        SCOPED_TRACE(std::string(mode.name) + " " + std::to_string(width) + " " +
                     std::to_string(amount));
        const int c = (32 - width) << 8 | mode.clamp;
        const std::string body = load_operand("%a", "u32", 0) + "  shfl.sync." + mode.name +
                                 ".b32 %d|%p, %a, " + std::to_string(amount) + ", " +
                                 std::to_string(c) + ", -1;\n" + store_result("%d", "u32", 0) +
                                 store_result("%p", "pred", 1);
        const std::string registers =
            declare("%a", "u32") + declare("%d", "u32") + declare("%p", "pred");
        const auto outputs =
            run_kernel("shuffle", kernel_text("shuffle", registers, body), inputs, 64);
        ASSERT_EQ(all_reports(), "");
        for (int i = 0; i < 64; ++i) {
          const int lane = i % 32, first = lane / width * width;
          int from = lane;
          const std::string name = mode.name;
          if (name == "up") from = lane - amount;
          if (name == "down") from = lane + amount;
          if (name == "bfly") from = lane ^ amount;
          if (name == "idx") from = first + amount % width;
          // bfly may read from groups before its own one, as the PTX manual's code says.
          const bool valid = name == "up"     ? from >= first
                             : name == "bfly" ? from < first + width
                                              : from >= first && from < first + width;
          if (!valid) from = lane;
          ASSERT_EQ(outputs[static_cast<size_t>(i)][0],
                    inputs[static_cast<size_t>(i / 32 * 32 + from)].a & 0xffffffff);
          ASSERT_EQ(outputs[static_cast<size_t>(i)][1], uint64_t{valid});
        }
      }
    }
  }
}

// Lane and value of each member of a group in a warp.
using Values = std::vector<std::pair<int, uint32_t>>;

template <class Predicate>
uint32_t ballot(const Values& values, Predicate predicate) {
  uint32_t mask = 0;
  for (const auto& [lane, value] : values) mask |= uint32_t{predicate(value)} << lane;
  return mask;
}

// Runs `code` in groups of lanes: the operand %a, the predicate %p (%a < 3) and the mask %m of the
// members go in, %d comes out; expected(the lane's operand, those of the members).
template <class Expected>
void check_group(const std::string& code, Expected expected) {
  SCOPED_TRACE(code);
  auto inputs = random_inputs(64);
  for (size_t i = 0; i < inputs.size(); ++i) {
    inputs[i].a %= 5;
    inputs[i].b = i < 32 ? 0x0f0ff0f1 : 0xffffffff;  // who is in
  }
  for (const size_t lane : {size_t{3}, size_t{40}}) inputs[lane].a = 0xfffffff0;
  const std::string registers = declare("%a", "u32") + declare("%m", "u32") + declare("%d", "u32") +
                                declare("%e", "u32") + declare("%p", "pred") +
                                declare("%q", "pred") + declare("%in_group", "pred");
  const std::string body =
      load_operand("%a", "u32", 0) + load_operand("%m", "u32", 1) +
      "  mov.u32 %d, 0;\n  mov.u32 %e, 0;\n" +
      "  and.b32 %t0, %t2, 31;\n  shr.u32 %t1, %m, %t0;\n  and.b32 %t1, %t1, 1;\n  setp.ne.s32 %in_group, %t1, 0;\n"
      "  setp.lt.u32 %p, %a, 3;\n  @!%in_group bra STORE;\n" +
      code + "STORE:\n" + store_result("%d", "u32", 0) + store_result("%e", "u32", 1);
  const auto outputs = run_kernel("group", kernel_text("group", registers, body), inputs, 64);
  ASSERT_EQ(all_reports(), "");
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto members = static_cast<uint32_t>(inputs[i].b);
    Values values;  // of the members of this warp
    for (size_t lane = 0; lane < 32; ++lane) {
      if ((members >> lane & 1) != 0)
        values.emplace_back(lane, static_cast<uint32_t>(inputs[i / 32 * 32 + lane].a));
    }
    if ((members >> i % 32 & 1) == 0) continue;
    ASSERT_EQ(outputs[i][0],
              static_cast<uint32_t>(expected(static_cast<uint32_t>(inputs[i].a), values)))
        << i;
  }
}

TEST_F(ExecutionTest, VotesAndMatches) {
  const auto yes = [](uint32_t x) { return x < 3; };
  const std::string to_number = "  selp.b32 %d, 1, 0, %q;\n";
  check_group("  vote.sync.ballot.b32 %d, %p, %m;\n",
              [&](uint32_t, const Values& v) { return ballot(v, yes); });
  check_group("  vote.sync.ballot.b32 %d, !%p, %m;\n", [&](uint32_t, const Values& v) {
    return ballot(v, [&](uint32_t x) { return !yes(x); });
  });
  check_group("  vote.sync.any.pred %q, %p, %m;\n" + to_number,
              [&](uint32_t, const Values& v) { return ballot(v, yes) != 0; });
  check_group("  vote.sync.all.pred %q, %p, %m;\n" + to_number, [&](uint32_t, const Values& v) {
    return ballot(v, yes) == ballot(v, [](uint32_t) { return true; });
  });
  check_group("  vote.sync.uni.pred %q, %p, %m;\n" + to_number, [&](uint32_t, const Values& v) {
    return ballot(v, yes) == 0 || ballot(v, yes) == ballot(v, [](uint32_t) { return true; });
  });
  check_group("  match.any.sync.b32 %d, %a, %m;\n", [&](uint32_t own, const Values& v) {
    return ballot(v, [&](uint32_t x) { return x == own; });
  });
  check_group("  match.all.sync.b32 %d|%q, %a, %m;\n", [&](uint32_t, const Values&) { return 0; });
  check_group("  match.all.sync.b32 %d|%q, 7, %m;\n  selp.b32 %d, %d, 0, %q;\n",
              [&](uint32_t, const Values& v) { return ballot(v, [](uint32_t) { return true; }); });
  check_group("  activemask.b32 %d;\n",
              [&](uint32_t, const Values& v) { return ballot(v, [](uint32_t) { return true; }); });
  check_group("  elect.sync %d|%q, %m;\n  selp.b32 %e, 1, 0, %q;\n",
              [](uint32_t, const Values& v) { return v[0].first; });
}

TEST_F(ExecutionTest, Reductions) {
  const auto reduce = [&](const std::string& op, auto combine) {
    check_group("  redux.sync." + op + " %d, %a, %m;\n", [&](uint32_t, const Values& v) {
      uint32_t result = v[0].second;
      for (size_t i = 1; i < v.size(); ++i) result = combine(result, v[i].second);
      return result;
    });
  };
  reduce("add.s32", [](uint32_t a, uint32_t b) { return a + b; });
  reduce("min.u32", [](uint32_t a, uint32_t b) { return std::min(a, b); });
  reduce("max.s32", [](uint32_t a, uint32_t b) {
    return static_cast<int32_t>(a) > static_cast<int32_t>(b) ? a : b;
  });
  reduce("xor.b32", [](uint32_t a, uint32_t b) { return a ^ b; });
}

// ---- Barriers and control flow.

TEST_F(ExecutionTest, BarrierReductions) {
  auto inputs = random_inputs(100);
  for (Operands& x : inputs) x.a %= 2;
  uint64_t count = 0;
  for (const Operands& x : inputs) count += x.a;
  const std::string registers =
      declare("%p", "pred") + declare("%q", "pred") + declare("%r", "pred") + declare("%d", "u32");
  const std::string body =
      load_operand("%p", "pred", 0) +
      "  bar.red.popc.u32 %d, 0, %p;\n  barrier.red.and.pred %q, 1, %p;\n  bar.red.or.pred %r, 0, 128, %p;\n" +
      store_result("%d", "u32", 0) + "  selp.b32 %d, 2, 0, %q;\n  @%r add.s32 %d, %d, 1;\n" +
      store_result("%d", "u32", 1);
  // 128 threads, of which 28 are outside: they come to no barrier, so the count is 100 here.
  std::string text = kernel_text("barrier", registers, body);
  text.replace(text.find("0, 128, %p"), 10, "0, 100, %p");
  const auto outputs = run_kernel("barrier", text, inputs, 100);
  EXPECT_EQ(all_reports(), "");
  for (const auto& out : outputs) {
    EXPECT_EQ(out[0], count);
    EXPECT_EQ(out[1], 1u);
  }
}

TEST_F(ExecutionTest, ProducersArriveConsumersWait) {
  // Warp 0 writes and arrives; warp 1 waits for it at a barrier of 64 threads.
  const std::string registers =
      declare("%p", "pred") + declare("%d", "u32") + "  .shared .align 4 .b8 tile[128];\n";
  const std::string body =
      "  mov.u32 %t3, tile;\n  and.b32 %t1, %t2, 31;\n  mad.lo.s32 %t3, %t1, 4, %t3;\n  setp.lt.u32 %p, %t2, 32;\n  @!%p bra WAIT;\n"
      "  st.shared.u32 [%t3], %t2;\n  bar.arrive 3, 64;\n  mov.u32 %d, 0;\n  bra STORE;\nWAIT:\n  bar.sync 3, 64;\n"
      "  ld.shared.u32 %d, [%t3];\nSTORE:\n" +
      store_result("%d", "u32", 0) + store_result("%d", "u32", 1);
  const auto outputs =
      run_kernel("producer", kernel_text("producer", registers, body), random_inputs(64), 64);
  EXPECT_EQ(all_reports(), "");
  for (size_t i = 32; i < 64; ++i) EXPECT_EQ(outputs[i][0], i - 32);
}

TEST_F(ExecutionTest, DivergentLoopsAndIndexedBranches) {
  auto inputs = random_inputs(300);
  for (Operands& x : inputs) x = {x.a % 40, x.b % 4, 0};
  const std::string registers =
      declare("%a", "u32") + declare("%b", "u32") + declare("%d", "u32") + declare("%p", "pred");
  const std::string body =
      load_operand("%a", "u32", 0) + load_operand("%b", "u32", 1) +
      "  mov.u32 %d, 0;\nLOOP:\n  setp.eq.s32 %p, %a, 0;\n  @%p bra DONE;\n  add.s32 %d, %d, %a;\n  sub.s32 %a, %a, 1;\n"
      "  bra.uni LOOP;\nDONE:\n"
      "TARGETS: .branchtargets CASE0, CASE1, CASE2, CASE3;\n  brx.idx %b, TARGETS;\n"
      "CASE0:\n  mul.lo.s32 %d, %d, 2;\n  bra STORE;\nCASE1:\n  { .reg .b32 %a; mov.u32 %a, 5; add.s32 %d, %d, %a; }\n"
      "CASE2:\n  add.s32 %d, %d, 1;\n  bra STORE;\nCASE3:\n  mov.u32 %d, 7;\nSTORE:\n" +
      store_result("%d", "u32", 0) + store_result("%b", "u32", 1);
  const auto outputs = run_kernel("control", kernel_text("control", registers, body), inputs);
  EXPECT_EQ(all_reports(), "");
  for (size_t i = 0; i < inputs.size(); ++i) {
    const uint64_t sum = inputs[i].a * (inputs[i].a + 1) / 2;
    const uint64_t expected[] = {2 * sum, sum + 6, sum + 1, 7};
    ASSERT_EQ(outputs[i][0], expected[inputs[i].b]);
  }
}

TEST_F(ExecutionTest, FunctionCalls) {
  const std::string functions =
      ".func (.param .b32 result) twice(.param .b32 x)\n{\n  .reg .b32 %r<3>;\n  .reg .pred %p;\n  ld.param.u32 %r0, [x];\n"
      "  setp.gt.u32 %p, %r0, 100;\n  @%p bra BIG;\n  add.u32 %r1, %r0, %r0;\n  st.param.b32 [result+0], %r1;\n  ret;\n"
      "BIG:\n  st.param.b32 [result], 1000;\n  ret;\n}\n"
      ".func (.param .b32 result) four_times(.param .b32 x)\n{\n  .reg .b32 %r<3>;\n  ld.param.u32 %r0, [x];\n"
      "  {\n  .param .b32 p0;\n  st.param.b32 [p0], %r0;\n  .param .b32 r0;\n  call.uni (r0), twice, (p0);\n  ld.param.b32 %r1, [r0];\n  }\n"
      "  {\n  .param .b32 p0;\n  st.param.b32 [p0], %r1;\n  .param .b32 r0;\n  call (r0), twice, (p0);\n  ld.param.b32 %r2, [r0];\n  }\n"
      "  st.param.b32 [result], %r2;\n  ret;\n}\n";
  const std::string registers = declare("%a", "u32") + declare("%d", "u32") + declare("%p", "pred");
  const std::string body =
      load_operand("%a", "u32", 0) +
      "  setp.ne.s32 %p, %a, 13;\n  mov.u32 %d, 99;\n  {\n  .param .b32 p0;\n  .param .b32 r0;\n  st.param.b32 [p0], %a;\n"
      "  st.param.b32 [r0], 99;\n  @%p call (r0), four_times, (p0);\n  ld.param.b32 %d, [r0];\n  }\n" +
      store_result("%d", "u32", 0) + store_result("%a", "u32", 1);
  std::vector<Operands> inputs(64);
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i].a = i;
  const auto outputs =
      run_kernel("calls", functions + kernel_text("calls", registers, body), inputs);
  EXPECT_EQ(all_reports(), "");
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(outputs[i][0], i == 13 ? 99 : 2 * i > 100 ? 1000 : 4 * i) << i;
  }
}

TEST_F(ExecutionTest, SpecialRegisters) {
  const std::string module =
      ".visible .entry special(.param .u64 out)\n{\n  .reg .b64 %rd<4>;\n  .reg .b32 %r<20>;\n"
      "  mov.u32 %r0, %tid.x;\n  mov.u32 %r1, %tid.y;\n  mov.u32 %r2, %tid.z;\n  mov.u32 %r3, %ntid.x;\n"
      "  mov.u32 %r4, %ntid.y;\n  mov.u32 %r5, %ctaid.y;\n  mov.u32 %r6, %nctaid.x;\n  mov.u32 %r7, %laneid;\n"
      "  mov.u32 %r8, %lanemask_lt;\n  mov.u32 %r9, %warpid;\n  mov.u32 %r11, %ctaid.x;\n"
      "  mad.lo.s32 %r10, %r2, %r4, %r1;\n  mad.lo.s32 %r10, %r10, %r3, %r0;\n"  // thread
      "  mad.lo.s32 %r12, %r5, %r6, %r11;\n  mad.lo.s32 %r12, %r12, 60, %r10;\n"
      "  ld.param.u64 %rd0, [out];\n  mul.wide.u32 %rd1, %r12, 16;\n  add.s64 %rd0, %rd0, %rd1;\n"
      "  st.global.v4.u32 [%rd0], {%r10, %r7, %r8, %r9};\n  ret;\n}\n";
  cudasim::settings().arch = kTestArch;
  cudasim::load_ptx(kTestArch, module_header() + module);
  DeviceArray<uint32_t> out(4 * 60 * 6);
  void* pointer = out.data();
  void* arguments[] = {&pointer};
  EXPECT_EQ(cudasim::launch("special", {3, 2, 1}, {5, 4, 3}, arguments), 0);
  EXPECT_EQ(all_reports(), "");
  EXPECT_EQ(out.unwritten_bytes(), 0u);
  const auto words = out.values();
  for (uint32_t i = 0; i < 60 * 6; ++i) {
    const uint32_t thread = i % 60, lane = thread % 32;
    EXPECT_EQ(words[4 * i], thread);
    EXPECT_EQ(words[4 * i + 1], lane);
    EXPECT_EQ(words[4 * i + 2], (uint32_t{1} << lane) - 1);
    EXPECT_EQ(words[4 * i + 3], thread / 32);
  }
}

// ---- The rest of the interface.

TEST_F(ExecutionTest, DivisionOfWorkIsCounted) {
  // Lane i of each warp reads word i * stride.
  for (const int stride : {1, 2, 4, 0}) {
    const std::string registers = declare("%a", "u32");
    const std::string body =
        "  ld.param.u64 %at, [in];\n  mul.lo.s64 %i, %i, " + std::to_string(4 * stride) +
        ";\n  add.s64 %at, %at, %i;\n  ld.global.u32 %a, [%at];\n  ld.global.u32 %a, [%at];\n"
        "  st.global.v2.u64 [%out], {%i, %i};\n";
    cudasim::clear();
    run_kernel("sites", kernel_text("sites", registers, body), random_inputs(96), 96);
    ASSERT_EQ(cudasim::launches().size(), 1u);
    const cudasim::Launch& launch = cudasim::launches()[0];
    ASSERT_EQ(launch.sites.size(), 3u);
    const cudasim::Site& first = launch.sites[0];
    EXPECT_EQ(first.bytes, 4);
    EXPECT_EQ(first.requests, 3u);
    EXPECT_EQ(first.lanes, 96u);
    EXPECT_EQ(first.sectors, stride == 0 ? 3u : 3u * 4 * static_cast<unsigned>(stride));
    EXPECT_EQ(first.ideal_sectors, stride == 0 ? 3u : 12u);
    EXPECT_EQ(first.misses, stride == 0 ? 1u : first.sectors);
    EXPECT_EQ(launch.sites[1].misses, 0u);
    EXPECT_TRUE(launch.sites[2].write);
    EXPECT_EQ(launch.sites[2].sectors, 3u * 16);
    EXPECT_EQ(launch.sites[2].misses, 3u * 16);
  }
}

TEST_F(ExecutionTest, BankConflictsAreCounted) {
  for (const int stride : {1, 2, 32, 33}) {
    const std::string registers = declare("%a", "u32") + "  .shared .align 4 .b8 tile[8192];\n";
    const std::string body =
        "  mov.u32 %t3, tile;\n  mad.lo.s32 %t3, %t2, " + std::to_string(4 * stride) +
        ", %t3;\n  st.shared.u32 [%t3], %t2;\n  st.global.v2.u64 [%out], {%i, %i};\n";
    cudasim::clear();
    run_kernel("banks", kernel_text("banks", registers, body), random_inputs(32), 32);
    const unsigned expected[] = {0, 1, 31, 0};
    const size_t which = stride == 1 ? 0 : stride == 2 ? 1 : stride == 32 ? 2 : 3;
    EXPECT_EQ(cudasim::launches()[0].sites[0].bank_conflicts, expected[which]) << stride;
  }
}

TEST_F(ExecutionTest, KernelsCanBeReplaced) {
  const std::string registers = declare("%a", "u64") + declare("%d", "u64");
  const std::string text =
      kernel_text("change", registers,
                  load_operand("%a", "u64", 0) + "  add.s64 %d, %a, 1;\n" +
                      store_result("%d", "u64", 0) + store_result("%d", "u64", 1));
  const std::vector<Operands> inputs = random_inputs(10);
  EXPECT_EQ(run_kernel("change", text, inputs)[3][0], inputs[3].a + 1);
  const std::vector<std::string> names = cudasim::kernels(kTestArch);
  EXPECT_NE(std::find(names.begin(), names.end(), "change"), names.end());

  std::string changed = cudasim::kernel_ptx(kTestArch, "change");
  changed.replace(changed.find("add.s64 %d"), 7, "sub.s64");
  cudasim::replace_kernel(kTestArch, "change", changed);
  const auto launch_again = [&] {
    DeviceArray<Operands> in(inputs);
    DeviceArray<std::array<uint64_t, 2>> out(inputs.size());
    void *in_pointer = in.data(), *out_pointer = out.data();
    uint32_t count = 10;
    void* arguments[] = {&in_pointer, &out_pointer, &count};
    EXPECT_EQ(cudasim::launch("change", {1, 1, 1}, {32, 1, 1}, arguments), 0);
    return out.values()[3][0];
  };
  EXPECT_EQ(launch_again(), inputs[3].a - 1);
  EXPECT_THROW(
      cudasim::replace_kernel(kTestArch, "change", ".visible .entry change() { nonsense; }"),
      std::runtime_error);
  cudasim::restore_kernels();
  EXPECT_EQ(launch_again(), inputs[3].a + 1);
}

TEST_F(ExecutionTest, LaunchLimits) {
  cudasim::settings().arch = kTestArch;
  cudasim::load_ptx(kTestArch,
                    module_header() + ".visible .entry small() .maxntid 64, 1, 1\n{\n  ret;\n}\n");
  const auto refused = [&](const unsigned (&grid)[3], const unsigned (&block)[3], size_t shared) {
    cudasim::clear();
    return cudasim::launch("small", grid, block, nullptr, shared) == 9 &&
           cudasim::reports().size() == 1;
  };
  EXPECT_EQ(cudasim::launch("small", {1, 1, 1}, {64, 1, 1}, nullptr), 0);
  EXPECT_TRUE(refused({1, 1, 1}, {65, 1, 1}, 0));
  EXPECT_TRUE(refused({0, 1, 1}, {32, 1, 1}, 0));
  EXPECT_TRUE(refused({1, 65536, 1}, {32, 1, 1}, 0));
  EXPECT_TRUE(refused({1, 1, 1}, {1025, 1, 1}, 0));
  EXPECT_TRUE(refused({1, 1, 1}, {32, 1, 1}, 300 << 10));
}

TEST_F(ExecutionTest, RunsAreReproducible) {
  // The old values of atomics tell the order in which warps and blocks ran.
  const std::string registers = declare("%a", "u32") + declare("%d", "u32");
  const std::string body = "  ld.param.u64 %at, [in];\n  atom.global.add.u32 %d, [%at+8], 1;\n" +
                           store_result("%d", "u32", 0) + store_result("%d", "u32", 1);
  const std::string text = kernel_text("order", registers, body);
  const auto order = [&](uint64_t seed) {
    cudasim::clear();
    cudasim::settings().seed = seed;
    std::vector<Operands> inputs(1000);
    return run_kernel("order", text, inputs);
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

}  // namespace
}  // namespace cudasim_test
