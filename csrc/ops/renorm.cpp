// embedding_renorm_: max_norm's in-place scaling, for autograd and fake tensors.

#include <myemb/ops.h>
#include <ops/checks.h>
#include <ops/decompositions.h>
#include <ops/typed_op.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

namespace myemb {
namespace {

at::Tensor& embedding_renorm_meta_(at::Tensor& self, const at::Tensor& indices, double /*max_norm*/,
                                   double /*norm_type*/) {
  check_embedding_renorm(self, indices);
  return self;
}

// The dispatcher guards no custom op against what autograd cannot follow: that is said here, as
// ATen says it. A leaf may be renormed under no_grad or through detach(), as
// nn.functional.embedding does.
at::Tensor& embedding_renorm_autograd_(at::Tensor& self, const at::Tensor& indices, double max_norm,
                                       double norm_type) {
  if (at::GradMode::is_enabled() && self.requires_grad()) {
    TORCH_CHECK(!self.is_leaf(),
                "a leaf Variable that requires grad is being used in an in-place operation.");
    TORCH_CHECK_NOT_IMPLEMENTED(false,
                                "the derivative for 'embedding_renorm_' is not implemented.");
  }
  TORCH_CHECK_NOT_IMPLEMENTED(!needs_decomposition({&self}),
                              "Trying to use forward AD with embedding_renorm_ that does not "
                              "support it because it has not been implemented yet.");
  const at::AutoDispatchBelowAutograd below;  // ADInplaceOrView comes next and bumps the version
  return myemb::embedding_renorm_(self, indices, max_norm, norm_type);
}

}  // namespace

at::Tensor& embedding_renorm_(at::Tensor& self, const at::Tensor& indices, double max_norm,
                              double norm_type) {
  static const auto op = typed_op<decltype(embedding_renorm_)>("myemb::embedding_renorm_");
  return op.call(self, indices, max_norm, norm_type);
}

TORCH_LIBRARY_IMPL(myemb, Meta, m) { m.impl("embedding_renorm_", &embedding_renorm_meta_); }

TORCH_LIBRARY_IMPL(myemb, Autograd, m) { m.impl("embedding_renorm_", &embedding_renorm_autograd_); }

TORCH_LIBRARY_IMPL(myemb, ADInplaceOrView, m) {
  m.impl("embedding_renorm_", torch::autograd::autogradNotImplementedInplaceOrViewFallback());
}

}  // namespace myemb
