#include <cuda/ops.h>

TORCH_LIBRARY_IMPL(myemb, CUDA, m) { myemb::cuda::register_ops(m); }

TORCH_LIBRARY_IMPL(myemb, SparseCUDA, m) { myemb::cuda::register_sparse_ops(m); }
