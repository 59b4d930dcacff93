// DeviceCall on the simulator: device memory is that of CPU tensors, and a launch has ended when it
// returns. What a GPU would let pass is reported.

#include <ATen/ops/empty.h>
#include <cuda/device.h>
#include <tests/cudasim/sim/cudasim.h>
#include <tests/cudasim/torch/calls.h>
#include <tests/cudasim/torch/host_calls.h>

#include <exception>
#include <iterator>
#include <optional>

namespace myemb::simulated {

std::vector<Call>& calls() {
  static auto* const all = new std::vector<Call>;
  return *all;
}

std::recursive_mutex& simulator_lock() {
  static auto* const lock = new std::recursive_mutex;
  return *lock;
}

namespace {

// Takes the entries from `first` on out of a list.
template <typename T>
std::vector<T> take(std::vector<T>& list, size_t first) {
  const auto begin = list.begin() + static_cast<ptrdiff_t>(std::min(first, list.size()));
  std::vector<T> taken(std::make_move_iterator(begin), std::make_move_iterator(list.end()));
  list.erase(begin, list.end());
  return taken;
}

// A failed launch fails the ones after it, too, as on a GPU; an exception has now told of it.
void forget_error() {
  auto launches = std::move(cudasim::launches());
  auto reports = std::move(cudasim::reports());
  cudasim::clear();
  cudasim::launches() = std::move(launches);
  cudasim::reports() = std::move(reports);
}

}  // namespace
}  // namespace myemb::simulated

namespace myemb::cuda {

using simulated::Call;
using simulated::HostCallWatch;

struct DeviceCall::State {
  std::unique_lock<std::recursive_mutex> lock{simulated::simulator_lock()};
  Call call;
  std::vector<at::Tensor> outputs;
  size_t first_launch = cudasim::launches().size();
  size_t first_report = cudasim::reports().size();
  int exceptions = std::uncaught_exceptions();
  std::optional<HostCallWatch> watch;
};

DeviceCall::DeviceCall(const at::Tensor& /*on*/, const char* op)
    : state_(std::make_unique<State>()) {
  state_->call.op = op;
  state_->watch.emplace(op);
}

DeviceCall::~DeviceCall() {
  const bool succeeded = std::uncaught_exceptions() == state_->exceptions;
  for (const at::Tensor& output : state_->outputs) {
    const size_t unwritten = cudasim::unwritten_bytes(output.const_data_ptr(), output.nbytes());
    if (succeeded && cudasim::settings().check && unwritten > 0) {
      cudasim::reports().push_back(state_->call.op + ": " + std::to_string(unwritten) + " of the " +
                                   std::to_string(output.nbytes()) +
                                   " bytes of an output were not written");
    }
    cudasim::mark_written(output.const_data_ptr(), output.nbytes());
  }
  state_->call.launches = simulated::take(cudasim::launches(), state_->first_launch);
  simulated::calls().push_back(std::move(state_->call));
}

Stream DeviceCall::stream() const { return nullptr; }

at::Tensor DeviceCall::output(at::IntArrayRef sizes, const at::TensorOptions& options) const {
  at::Tensor tensor = at::empty(sizes, options);
  if (tensor.nbytes() == 0) return tensor;
  cudasim::mark_unwritten(tensor.const_data_ptr(), tensor.nbytes());
  state_->outputs.push_back(tensor);
  state_->call.output_bytes += static_cast<int64_t>(tensor.nbytes());
  return tensor;
}

at::Tensor DeviceCall::scratch(int64_t bytes) const {
  at::Tensor tensor = at::empty({bytes}, at::kByte);
  if (bytes == 0) return tensor;
  cudasim::mark_unwritten(tensor.const_data_ptr(), tensor.nbytes());
  state_->call.scratch_bytes += bytes;
  return tensor;
}

// The exception tells of an assertion, which may be what a test wants; any other report stays, too.
void DeviceCall::check(int cuda_error) const {
  if (cuda_error == 0) return;
  std::string text = state_->call.op + ": CUDA error " + std::to_string(cuda_error);
  for (std::string& report : simulated::take(cudasim::reports(), state_->first_report)) {
    text += "\n" + report;
    const bool is_assertion = report.find("device assertion") != std::string::npos;
    if (!is_assertion) cudasim::reports().push_back(std::move(report));
  }
  simulated::forget_error();
  TORCH_CHECK(false, text);
}

}  // namespace myemb::cuda
