#pragma once

#include <ATen/record_function.h>

namespace myemb::simulated {

// From here on the simulator knows the exact bytes of every allocation of a CPU tensor, as a GPU
// knows those of its memory: an access to anything else is a bug in a kernel.
void announce_cpu_tensors();

// While one exists, the simulator also knows the tensors that an op of this thread is given, for as
// long as the op runs: their memory may come from elsewhere (numpy, torch.UntypedStorage).
class ForeignInputs {
 public:
  ForeignInputs();
  ~ForeignInputs();
  ForeignInputs(const ForeignInputs&) = delete;
  ForeignInputs& operator=(const ForeignInputs&) = delete;

 private:
  at::CallbackHandle handle_;
};

}  // namespace myemb::simulated
