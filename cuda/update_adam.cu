// Steps of Adam.

#include <cuda/kernels/update.cuh>

namespace myemb::cuda {

template struct RuleKernels<float, Adam<float, false>>;
template struct RuleKernels<double, Adam<double, false>>;
template struct RuleKernels<Half, Adam<float, false>>;
template struct RuleKernels<BFloat16, Adam<float, false>>;
template struct RuleKernels<float, Adam<float, true>>;
template struct RuleKernels<double, Adam<double, true>>;
template struct RuleKernels<Half, Adam<float, true>>;
template struct RuleKernels<BFloat16, Adam<float, true>>;

}  // namespace myemb::cuda
