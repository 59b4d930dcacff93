// CUB is the best test of the simulator: thousands of instructions that others wrote, with
// warp-wide ranking, atomics, and blocks that wait for one another.
#include "cub.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "device.h"

namespace cudasim_test {
namespace {

struct Run {
  int arch;
  uint64_t seed;
};

class CubTest : public SimulatorTest, public ::testing::WithParamInterface<Run> {
 protected:
  void SetUp() override {
    SimulatorTest::SetUp();
    cudasim::settings().arch = GetParam().arch;
    cudasim::settings().seed = GetParam().seed;
  }
  void TearDown() override { EXPECT_EQ(all_reports(), ""); }

  // Calls a CUB algorithm twice: for the size of its storage, and to work.
  template <class Algorithm>
  void run(Algorithm algorithm) {
    size_t bytes = 0;
    ASSERT_EQ(algorithm(nullptr, bytes), cudaSuccess);
    DeviceArray<char> storage(bytes);
    ASSERT_EQ(algorithm(storage.data(), bytes), cudaSuccess);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  }

  template <class Key, class Value>
  void sort(size_t count, int begin_bit, int end_bit) {
    SCOPED_TRACE(std::to_string(count) + " pairs, bits " + std::to_string(begin_bit) + " to " +
                 std::to_string(end_bit));
    std::mt19937_64 random(count);
    std::vector<Key> keys(count);
    for (Key& key : keys)
      key = static_cast<Key>(random()) &
            ((Key{1} << std::min<int>(end_bit + 2, sizeof(Key) * 8 - 1)) - 1);
    std::vector<Value> values(count);
    std::iota(values.begin(), values.end(), Value{0});

    DeviceArray<Key> keys_in(keys), keys_out(count);
    DeviceArray<Value> values_in(values), values_out(count);
    run([&](void* storage, size_t& bytes) {
      return sort_pairs(storage, bytes, keys_in.data(), keys_out.data(), values_in.data(),
                        values_out.data(), static_cast<int64_t>(count), begin_bit, end_bit);
    });

    const Key mask =
        ((end_bit == static_cast<int>(sizeof(Key) * 8) ? Key{0} : Key{1} << end_bit) - 1) >>
        begin_bit << begin_bit;
    std::stable_sort(values.begin(), values.end(), [&](Value a, Value b) {
      return (keys[static_cast<size_t>(a)] & mask) < (keys[static_cast<size_t>(b)] & mask);
    });
    std::vector<Key> sorted_keys;
    for (const Value value : values) sorted_keys.push_back(keys[static_cast<size_t>(value)]);
    EXPECT_EQ(keys_out.values(), sorted_keys);
    EXPECT_EQ(values_out.values(), values);
  }
};

constexpr size_t kCounts[] = {0, 1, 31, 1000, 60000};

TEST_P(CubTest, SortsPairs) {
  for (const size_t count : kCounts) {
    sort<uint32_t, int32_t>(count, 0, 20);
    sort<uint64_t, int64_t>(count, 0, 40);
  }
  sort<uint32_t, int32_t>(1000, 3, 11);
  sort<uint32_t, int32_t>(1000, 0, 32);
  sort<uint64_t, int64_t>(20000, 5, 13);
}

TEST_P(CubTest, Scans) {
  for (const size_t count : kCounts) {
    std::mt19937 random(static_cast<unsigned>(count));
    std::vector<int32_t> in(count), inclusive(count);
    for (int32_t& x : in) x = static_cast<int32_t>(random() % 100);
    std::partial_sum(in.begin(), in.end(), inclusive.begin());
    DeviceArray<int32_t> device_in(in), device_out(count);
    run([&](void* storage, size_t& bytes) {
      return inclusive_sum(storage, bytes, device_in.data(), device_out.data(),
                           static_cast<int64_t>(count));
    });
    EXPECT_EQ(device_out.values(), inclusive);

    std::vector<int64_t> wide(in.begin(), in.end()), exclusive(count);
    std::exclusive_scan(wide.begin(), wide.end(), exclusive.begin(), int64_t{0});
    DeviceArray<int64_t> wide_in(wide), wide_out(count);
    run([&](void* storage, size_t& bytes) {
      return exclusive_sum(storage, bytes, wide_in.data(), wide_out.data(),
                           static_cast<int64_t>(count));
    });
    EXPECT_EQ(wide_out.values(), exclusive);
  }
}

TEST_P(CubTest, EncodesRuns) {
  for (const size_t count : kCounts) {
    std::mt19937 random(static_cast<unsigned>(count));
    std::vector<int32_t> in(count), unique, lengths;
    for (size_t i = 0; i < count; ++i)
      in[i] = i == 0 || random() % 5 == 0 ? static_cast<int32_t>(random() % 9) : in[i - 1];
    for (size_t i = 0; i < count; ++i) {
      if (i == 0 || in[i] != in[i - 1]) {
        unique.push_back(in[i]);
        lengths.push_back(0);
      }
      ++lengths.back();
    }
    DeviceArray<int32_t> device_in(in), device_unique(count), device_lengths(count);
    DeviceArray<int64_t> runs(1);
    run([&](void* storage, size_t& bytes) {
      return run_length_encode(storage, bytes, device_in.data(), device_unique.data(),
                               device_lengths.data(), runs.data(), static_cast<int64_t>(count));
    });
    ASSERT_EQ(runs.values()[0], static_cast<int64_t>(unique.size()));
    const std::vector<int32_t> all_unique = device_unique.values(),
                               all_lengths = device_lengths.values();
    EXPECT_TRUE(std::equal(unique.begin(), unique.end(), all_unique.begin()));
    EXPECT_TRUE(std::equal(lengths.begin(), lengths.end(), all_lengths.begin()));
  }
}

INSTANTIATE_TEST_SUITE_P(Runs, CubTest,
                         ::testing::Values(Run{75, 0}, Run{75, 1}, Run{120, 0}, Run{120, 1}),
                         [](const auto& info) {
                           return "compute_" + std::to_string(info.param.arch) + "_seed_" +
                                  std::to_string(info.param.seed);
                         });

}  // namespace
}  // namespace cudasim_test
