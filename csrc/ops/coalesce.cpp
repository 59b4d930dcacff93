// coalesce, for sparse gradients: PyTorch's own wherever the kernel of this library has no part.

#include <myemb/ops.h>
#include <ops/saved.h>
#include <ops/typed_op.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

namespace myemb {
namespace {

at::Tensor coalesce_any(const at::Tensor& self) { return self.coalesce(); }

at::Tensor coalesce_autograd(const at::Tensor& self) {
  if (wants_gradient(self)) return self.coalesce();
  const at::AutoDispatchBelowADInplaceOrView below;
  return myemb::coalesce(self);
}

}  // namespace

at::Tensor coalesce(const at::Tensor& self) {
  static const auto op = typed_op<decltype(coalesce)>("myemb::coalesce");
  return op.call(self);
}

TORCH_LIBRARY_IMPL(myemb, CompositeExplicitAutograd, m) { m.impl("coalesce", &coalesce_any); }

TORCH_LIBRARY_IMPL(myemb, Autograd, m) { m.impl("coalesce", &coalesce_autograd); }

}  // namespace myemb
