// Steps of SGD, and of what differs from it by a factor a row.

#include <cuda/kernels/update.cuh>

namespace myemb::cuda {

template struct RuleKernels<float, Sgd<float>>;
template struct RuleKernels<double, Sgd<double>>;
template struct RuleKernels<Half, Sgd<float>>;
template struct RuleKernels<BFloat16, Sgd<float>>;
template struct RuleKernels<float, SgdMomentum<float>>;
template struct RuleKernels<double, SgdMomentum<double>>;
template struct RuleKernels<Half, SgdMomentum<float>>;
template struct RuleKernels<BFloat16, SgdMomentum<float>>;
template struct RuleKernels<float, RowWiseAdagrad<float>>;
template struct RuleKernels<double, RowWiseAdagrad<double>>;
template struct RuleKernels<Half, RowWiseAdagrad<float>>;
template struct RuleKernels<BFloat16, RowWiseAdagrad<float>>;

}  // namespace myemb::cuda
