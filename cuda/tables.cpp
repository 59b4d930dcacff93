// embedding_bag_tables has no CUDA kernels yet, and says so.

#include <cuda/ops.h>

#include <c10/util/Exception.h>

namespace myemb::cuda {
namespace {

void refuse(const c10::OperatorHandle& op, torch::jit::Stack* /*stack*/) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.schema().name(),
      " is not implemented on CUDA yet: call embedding_bag for each feature, or move the tensors to "
      "the CPU");
}

}  // namespace

void register_tables(torch::Library& m) {
  for (const char* const name :
       {"embedding_bag_tables", "embedding_bag_tables_max", "embedding_bag_tables_backward",
        "embedding_bag_tables_per_sample_weights_backward", "embedding_bag_tables_update_"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse>());
  }
}

}  // namespace myemb::cuda
