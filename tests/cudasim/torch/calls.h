#pragma once

// What the ops did on the simulator, one record for each DeviceCall.

#include <tests/cudasim/sim/cudasim.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace myemb::simulated {

struct Call {
  std::string op;
  int64_t output_bytes = 0;
  int64_t scratch_bytes = 0;
  std::vector<cudasim::Launch> launches;
};

// The finished ones, in the order in which they ended.
std::vector<Call>& calls();

// Held during a DeviceCall and around every other use of the simulator, which knows no threads.
std::recursive_mutex& simulator_lock();

}  // namespace myemb::simulated
