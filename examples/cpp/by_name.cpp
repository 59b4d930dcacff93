// Reaches an operator of myemb by its name alone, as a TorchScript or torch.export program does: no
// header and no symbol of libmyemb is used, the library only has to be loaded.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>
#include <iostream>

int main() {
  using Embedding = at::Tensor(const at::Tensor& weight, const at::Tensor& indices,
                               c10::SymInt padding_idx, bool scale_grad_by_freq, bool sparse);
  const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("myemb::embedding", "").typed<Embedding>();

  const at::Tensor weight = at::arange(12, at::kFloat).view({4, 3});
  const at::Tensor indices = at::tensor({3, 0, 3}, at::kLong);
  const at::Tensor rows = op.call(weight, indices, -1, false, false);
  std::cout << rows << "\n";
  return at::equal(rows, weight.index_select(0, indices)) ? 0 : 1;
}
