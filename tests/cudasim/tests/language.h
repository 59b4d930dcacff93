// CUDA C++ compiled by nvcc twice: for the simulator and for the host, which has to agree.
#pragma once

#include <cuda_runtime_api.h>

namespace cudasim_test {

struct Expression {
  const char* name;
  double tolerance;  // relative, or absolute below 1
  double (*on_host)(int i);
  void (*on_device)(double* out, int count);
};
extern const Expression kExpressions[];
extern const int kExpressionCount;

void launch_print(int* out);
void launch_chain(int* flags, int blocks);          // block i waits for block i - 1
void launch_dynamic_shared(int* out, int threads);  // reverses 0, 1, 2, ...
cudaError_t launch_too_much_shared(int* out, int bytes);
cudaError_t copy_and_fill(int* to, const int* from, size_t bytes);

}  // namespace cudasim_test
