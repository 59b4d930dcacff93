// Steps of Adagrad.

#include <cuda/kernels/update.cuh>

namespace myemb::cuda {

template struct RuleKernels<float, Adagrad<float>>;
template struct RuleKernels<double, Adagrad<double>>;
template struct RuleKernels<Half, Adagrad<float>>;
template struct RuleKernels<BFloat16, Adagrad<float>>;

}  // namespace myemb::cuda
