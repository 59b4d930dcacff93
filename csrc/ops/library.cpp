// The schemas of torch.ops.myemb: the table of contents of this library. What an op is (meta
// kernel, autograd) is in the file of its family beside this one; how it is computed, in csrc/cpu
// and cuda.

#include <myemb/ops.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string>

namespace myemb {

bool has_cuda() {
#ifdef MYEMB_WITH_CUDA
  return true;
#else
  return false;
#endif
}

TORCH_LIBRARY(myemb, m) {
  const std::vector<at::Tag> pure{at::Tag::pt2_compliant_tag};
  m.def(
      "embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, "
      "bool sparse=False) -> Tensor",
      pure);
  m.def(
      "embedding_dense_backward(Tensor grad_output, Tensor indices, SymInt num_weights, "
      "SymInt padding_idx=-1, bool scale_grad_by_freq=False) -> Tensor",
      pure);
  // The tag lets functionalization treat the returned alias as it treats ATen's in-place ops.
  m.def(
      "embedding_renorm_(Tensor(a!) self, Tensor indices, float max_norm, float norm_type=2.0) "
      "-> Tensor(a!)",
      {at::Tag::pt2_compliant_tag, at::Tag::inplace});
  m.def(
      "embedding_bag(Tensor weight, Tensor indices, Tensor? offsets=None, bool scale_grad_by_freq=False, "
      "int mode=0, bool sparse=False, Tensor? per_sample_weights=None, bool include_last_offset=False, "
      "SymInt? padding_idx=None) -> Tensor",
      pure);
  m.def(
      "checked_offsets(Tensor offsets, SymInt num_lookups, bool include_last_offset=False) "
      "-> Tensor",
      pure);
  m.def(
      "embedding_bag_max(Tensor weight, Tensor indices, Tensor? offsets=None, "
      "Tensor? per_sample_weights=None, bool include_last_offset=False, SymInt? padding_idx=None) "
      "-> (Tensor output, Tensor positions)",
      pure);
  m.def(
      "embedding_bag_dense_backward(Tensor grad_output, Tensor indices, Tensor? offsets, "
      "Tensor? positions, SymInt num_weights, bool scale_grad_by_freq, int mode, "
      "Tensor? per_sample_weights, bool include_last_offset, SymInt? padding_idx) -> Tensor",
      pure);
  m.def(
      "embedding_bag_sparse_backward(Tensor grad_output, Tensor indices, Tensor? offsets, "
      "SymInt num_weights, bool scale_grad_by_freq, int mode, Tensor? per_sample_weights, "
      "bool include_last_offset, SymInt? padding_idx) -> Tensor",
      pure);
  m.def(
      "embedding_bag_per_sample_weights_backward(Tensor grad_output, Tensor weight, Tensor indices, "
      "Tensor? offsets, Tensor? positions, int mode, bool include_last_offset, SymInt? padding_idx) "
      "-> Tensor",
      pure);
  m.def(
      "embedding_bag_tables(Tensor[] weights, Tensor indices, Tensor offsets, "
      "int[]? feature_tables=None, int[]? modes=None, Tensor? per_sample_weights=None, "
      "SymInt[]? padding_idx=None, int[] sparse_tables=[]) -> Tensor",
      pure);
  m.def(
      "embedding_bag_tables_max(Tensor[] weights, Tensor indices, Tensor offsets, "
      "int[]? feature_tables=None, int[]? modes=None, Tensor? per_sample_weights=None, "
      "SymInt[]? padding_idx=None) -> (Tensor output, Tensor positions)",
      pure);
  m.def(
      "embedding_bag_tables_backward(Tensor grad_output, Tensor indices, Tensor offsets, "
      "Tensor? positions, SymInt[] num_weights, SymInt[] embedding_dims, int[] dtypes, "
      "int[]? feature_tables, int[]? modes, Tensor? per_sample_weights, SymInt[]? padding_idx, "
      "int[] sparse_tables, int[] wanted_tables) -> Tensor[]",
      pure);
  m.def(
      "embedding_bag_tables_per_sample_weights_backward(Tensor grad_output, Tensor[] weights, "
      "Tensor indices, Tensor offsets, Tensor? positions, int[]? feature_tables, int[]? modes, "
      "SymInt[]? padding_idx) -> Tensor",
      pure);
  // What a step of an optimizer takes beside tensors.
  const std::string step =
      "str rule, float lr, float eps=0, float weight_decay=0, float shrink=0, bool maximize=False, "
      "float momentum=0, float dampening=0, bool nesterov=False, float beta1=0, float beta2=0, "
      "bool amsgrad=False, str rounding=\"nearest\", int seed=0, int step=0) -> ()";
  const std::string tables_update =
      "embedding_bag_tables_update_(Tensor(a!)[] weights, Tensor(b!)[] state, Tensor grad_output, "
      "Tensor indices, Tensor offsets, Tensor? positions, int[]? feature_tables, int[]? modes, "
      "Tensor? per_sample_weights, SymInt[]? padding_idx, int[] updated_tables, *, " +
      step;
  m.def(tables_update.c_str(), pure);
  m.def("coalesce(Tensor(a) self) -> Tensor(a)", pure);
  // (`bag_mode`: torch's functionalization of in-place ops has a `mode` of its own.)
  const std::string update =
      "embedding_update_(Tensor(a!) weight, Tensor(b!)[] state, Tensor grad, Tensor? indices=None, "
      "Tensor? offsets=None, Tensor? positions=None, Tensor? per_sample_weights=None, "
      "bool scale_grad_by_freq=False, int bag_mode=0, bool include_last_offset=False, "
      "SymInt? padding_idx=None, *, " +
      step;
  m.def(update.c_str(), pure);
}

#ifndef MYEMB_WITH_CUDA
void refuse_cuda(const c10::OperatorHandle& op, torch::jit::Stack* /*stack*/) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.schema().name(),
      ": this myemb was built without its CUDA kernels; build it where the nvcc of torch's CUDA "
      "version is (MYEMB_CUDA=ON says what is missing), or move the tensors to the CPU");
}

TORCH_LIBRARY_IMPL(myemb, CUDA, m) {
  for (const c10::OperatorName& op : c10::Dispatcher::singleton().getAllOpNames()) {
    if (!op.name.starts_with("myemb::")) continue;
    m.impl(op.name.c_str(), torch::CppFunction::makeFromBoxedFunction<&refuse_cuda>());
  }
}
#endif

}  // namespace myemb
