// What the tests share: device memory, and the simulator in a known state.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "sim/cudasim.h"

namespace cudasim_test {

inline constexpr int kArchitectures[] = {75, 120};

// An array in device memory. Made from values it is initialised, made from a size it is not.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : DeviceArray(size, false) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size(), true) {
    if (!values.empty()) std::memcpy(data_, values.data(), values.size() * sizeof(T));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    cudasim::remove_memory(data_);
    std::free(data_);
  }

  T* data() { return data_; }
  size_t unwritten_bytes() const { return cudasim::unwritten_bytes(data_, size_ * sizeof(T)); }
  std::vector<T> values() const { return {data_, data_ + size_}; }

 private:
  DeviceArray(size_t size, bool initialised)
      : data_(static_cast<T*>(std::aligned_alloc(256, (size * sizeof(T) + 255) / 256 * 256 + 256))),
        size_(size) {
    std::memset(static_cast<void*>(data_), 0xa5, size * sizeof(T));
    cudasim::add_memory(data_, size * sizeof(T), initialised);
  }

  T* data_;
  size_t size_;
};

inline std::string all_reports() {
  std::string text;
  for (const std::string& report : cudasim::reports()) text += report + "\n";
  return text;
}

// Every test starts with default settings and no reports.
class SimulatorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    cudasim::settings() = {};
    cudasim::clear();
  }
  void TearDown() override { cudasim::restore_kernels(); }
};

}  // namespace cudasim_test
