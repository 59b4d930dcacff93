// Every bug must be reported, with the line it is on; the same code without the bug must not be.
#include "bugs.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <fstream>
#include <numeric>

#include "device.h"

namespace cudasim_test {
namespace {

constexpr int kSize = 256;

// "bugs.cu:12" for every line of bugs.cu that has the comment.
std::vector<std::string> marked_lines(const std::string& marker) {
  std::ifstream source(CUDASIM_BUGS_SOURCE);
  std::vector<std::string> lines;
  int number = 0;
  for (std::string line; std::getline(source, line);) {
    ++number;
    const std::string comment = "// BUG: " + marker;
    const size_t at = line.find(comment);
    if (at != std::string::npos && at + comment.size() == line.size()) {
      lines.push_back("bugs.cu:" + std::to_string(number) + ",");
    }
  }
  return lines;
}

bool has_report(const std::string& text, const std::vector<std::string>& lines) {
  for (const std::string& report : cudasim::reports()) {
    if (report.find(text) == std::string::npos) continue;
    for (const std::string& line : lines) {
      if (report.find(line) != std::string::npos) return true;
    }
  }
  return false;
}

struct Memory {
  DeviceArray<int> in, out;

  Memory() : in(make_numbers()), out(kSize) {}
  static std::vector<int> make_numbers() {
    std::vector<int> values(kSize);
    std::iota(values.begin(), values.end(), 0);
    return values;
  }
  Arrays arrays() { return {in.data(), out.data(), kSize}; }
};

struct BugRun {
  const BugCase* bug;
  int arch;
  uint64_t seed;
};

std::vector<BugRun> all_runs() {
  std::vector<BugRun> runs;
  for (int i = 0; i < kBugCaseCount; ++i) {
    for (const int arch : kArchitectures) {
      for (const uint64_t seed : {0, 1, 2}) runs.push_back({&kBugCases[i], arch, seed});
    }
  }
  return runs;
}

class BugTest : public SimulatorTest, public ::testing::WithParamInterface<BugRun> {
 protected:
  void SetUp() override {
    SimulatorTest::SetUp();
    cudasim::settings().arch = GetParam().arch;
    cudasim::settings().seed = GetParam().seed;
    const std::string name = GetParam().bug->name;
    if (name == "histogram_without_atomics" || name == "plain_and_atomic") {
      cudasim::mark_written(memory_.out.data(), kSize * sizeof(int));
    }
  }
  Memory memory_;
};

TEST_P(BugTest, IsReported) {
  const BugCase& bug = *GetParam().bug;
  const std::vector<std::string> lines = marked_lines(bug.marker);
  ASSERT_FALSE(lines.empty());
  bug.broken(memory_.arrays());
  EXPECT_TRUE(has_report(bug.report, lines))
      << "expected `" << bug.report << "` at " << lines[0] << "\n"
      << all_reports();
}

TEST_P(BugTest, CorrectTwinIsSilent) {
  GetParam().bug->correct(memory_.arrays());
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(all_reports(), "");
}

INSTANTIATE_TEST_SUITE_P(All, BugTest, ::testing::ValuesIn(all_runs()), [](const auto& info) {
  return info.param.bug->name + "_" + std::to_string(info.param.arch) + "_" +
         std::to_string(info.param.seed);
});

class ReportTest : public SimulatorTest {
 protected:
  static const BugCase& find(const std::string& name) {
    return *std::find_if(kBugCases, kBugCases + kBugCaseCount,
                         [&](const BugCase& bug) { return bug.name == name; });
  }
  Memory memory_;
};

TEST_F(ReportTest, InfiniteLoopIsStopped) {
  cudasim::settings().instruction_budget = 100'000;
  *memory_.in.data() = 0;
  launch_infinite_loop(memory_.arrays());
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchTimeout);
  EXPECT_TRUE(has_report("no progress", marked_lines("infinite_loop"))) << all_reports();
}

TEST_F(ReportTest, ErrorsReachTheHostAndStayUntilCleared) {
  const auto error_of = [&](const std::string& name) {
    cudasim::clear();
    find(name).broken(memory_.arrays());
    return cudaPeekAtLastError();
  };
  EXPECT_EQ(error_of("failing_assert"), cudaErrorAssert);
  EXPECT_EQ(error_of("index_past_the_end"), cudaErrorIllegalAddress);
  EXPECT_EQ(error_of("misaligned_vector"), cudaErrorMisalignedAddress);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorMisalignedAddress);
  cudasim::clear();
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  EXPECT_TRUE(cudasim::reports().empty());
}

TEST_F(ReportTest, UnwrittenOutputIsCounted) {
  find("shuffle_after_lanes_left").correct(memory_.arrays());
  EXPECT_EQ(memory_.out.unwritten_bytes(), (kSize - 32) * sizeof(int));
  cudasim::mark_unwritten(memory_.out.data() + 1, 8);
  EXPECT_EQ(memory_.out.unwritten_bytes(), (kSize - 30) * sizeof(int));
}

TEST_F(ReportTest, ForbiddenHostCalls) {
  struct Call {
    const char* name;
    void (*call)();
  };
  static char buffer[8];
  const Call calls[] = {
      {"cudaDeviceSynchronize", [] { cudaDeviceSynchronize(); }},
      {"cudaStreamSynchronize", [] { cudaStreamSynchronize(nullptr); }},
      {"cudaStreamQuery", [] { cudaStreamQuery(nullptr); }},
      {"cudaEventSynchronize", [] { cudaEventSynchronize(nullptr); }},
      {"cudaMemcpy", [] { cudaMemcpy(buffer, buffer, 8, cudaMemcpyDeviceToHost); }},
      {"cudaMemcpyAsync (device to host)",
       [] { cudaMemcpyAsync(buffer, buffer, 8, cudaMemcpyDeviceToHost, nullptr); }},
      {"cudaMalloc",
       [] {
         void* p;
         cudaMalloc(&p, 8);
       }},
      {"cudaFree", [] { cudaFree(nullptr); }},
  };
  for (const Call& call : calls) {
    cudasim::clear();
    call.call();
    ASSERT_EQ(cudasim::reports().size(), 1u) << call.name;
    EXPECT_EQ(cudasim::reports()[0], std::string("forbidden host call ") + call.name);
  }
}

}  // namespace
}  // namespace cudasim_test
