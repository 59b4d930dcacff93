// coalesce, for sparse gradients: PyTorch's own wherever the kernel of this library has no part.

#include <myemb/ops.h>
#include <ops/node.h>
#include <ops/typed_op.h>

#include <torch/library.h>

namespace myemb {
namespace {

const auto& coalesce_op() {
  static const auto op = typed_op<decltype(coalesce)>("myemb::coalesce");
  return op;
}

at::Tensor coalesce_any(const at::Tensor& self) { return self.coalesce(); }

at::Tensor coalesce_autograd(c10::DispatchKeySet keys, const at::Tensor& self) {
  if (wants_gradient(self)) return self.coalesce();
  return below_autograd(coalesce_op(), keys, self);
}

}  // namespace

at::Tensor coalesce(const at::Tensor& self) { return coalesce_op().call(self); }

TORCH_LIBRARY_IMPL(myemb, CompositeExplicitAutograd, m) { m.impl("coalesce", &coalesce_any); }

TORCH_LIBRARY_IMPL(myemb, Autograd, m) { m.impl("coalesce", &coalesce_autograd); }

}  // namespace myemb
