#include "language.h"

#include <cmath>

#include "device.h"

namespace cudasim_test {
namespace {

class LanguageTest : public SimulatorTest, public ::testing::WithParamInterface<int> {
 protected:
  void SetUp() override {
    SimulatorTest::SetUp();
    cudasim::settings().arch = GetParam();
  }
};

TEST_P(LanguageTest, DeviceAgreesWithHost) {
  constexpr int kCount = 500;
  for (int which = 0; which < kExpressionCount; ++which) {
    const Expression& expression = kExpressions[which];
    SCOPED_TRACE(expression.name);
    DeviceArray<double> out(kCount);
    expression.on_device(out.data(), kCount);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess) << all_reports();
    ASSERT_EQ(all_reports(), "");
    const std::vector<double> values = out.values();
    for (int i = 0; i < kCount; ++i) {
      const double expected = expression.on_host(i);
      ASSERT_NEAR(values[static_cast<size_t>(i)], expected,
                  (1 + std::fabs(expected)) * expression.tolerance)
          << i;
    }
  }
}

TEST_P(LanguageTest, Prints) {
  DeviceArray<int> out(32);
  ::testing::internal::CaptureStderr();
  launch_print(out.data());
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "thread 0 of block: 1.50 123456789 %\nthread 1 of block: 1.50 123456789 %\n");
  EXPECT_EQ(all_reports(), "");
}

TEST_P(LanguageTest, BlocksMayWaitForEarlierBlocks) {
  for (const uint64_t seed : {0, 1, 2}) {
    cudasim::settings().seed = seed;
    cudasim::settings().instruction_budget = 10'000'000;
    DeviceArray<int> flags(std::vector<int>(100));
    launch_chain(flags.data(), 100);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_EQ(all_reports(), "");
    EXPECT_EQ(flags.values(), std::vector<int>(100, 1));
  }
}

TEST_P(LanguageTest, DynamicSharedMemory) {
  DeviceArray<int> out(200);
  launch_dynamic_shared(out.data(), 200);
  EXPECT_EQ(all_reports(), "");
  EXPECT_EQ(out.values()[0], 199);
  EXPECT_EQ(out.values()[199], 0);
  EXPECT_EQ(launch_too_much_shared(out.data(), 60 << 10), cudaSuccess);
  ASSERT_EQ(cudasim::reports().size(), 1u);
  EXPECT_NE(cudasim::reports()[0].find("61440 bytes of dynamic shared memory"), std::string::npos)
      << all_reports();
}

TEST_P(LanguageTest, CopiesAndFillsKeepTrackOfWhatIsWritten) {
  DeviceArray<int> from(std::vector<int>(8, 7)), to(8);
  cudasim::mark_unwritten(from.data() + 1, 4);
  ASSERT_EQ(copy_and_fill(to.data(), from.data(), 32), cudaSuccess);
  EXPECT_EQ(to.values(),
            (std::vector<int>{7, 7, 7, 7, 0x01010101, 0x01010101, 0x01010101, 0x01010101}));
  EXPECT_EQ(to.unwritten_bytes(), 4u);
  EXPECT_EQ(all_reports(), "");
  EXPECT_EQ(copy_and_fill(to.data(), from.data(), 64), cudaErrorInvalidValue);
  EXPECT_NE(all_reports().find("not inside of a device allocation"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Architectures, LanguageTest, ::testing::ValuesIn(kArchitectures),
                         [](const auto& info) { return "compute_" + std::to_string(info.param); });

}  // namespace
}  // namespace cudasim_test
