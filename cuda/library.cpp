#include <cuda/ops.h>

TORCH_LIBRARY_IMPL(myemb, CUDA, m) { myemb::cuda::register_ops(m); }
