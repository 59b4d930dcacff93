// Runs a model that Python has compiled ahead of time (package.py): torch.export, AOTInductor, and
// here neither Python nor the model's source. Its operators of myemb are those of libmyemb, which
// only has to be loaded.

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: package MODEL.pt2\n";
    return 2;
  }
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  for (const int64_t length : {4, 9}) {  // sizes are dynamic
    const at::Tensor indices = at::arange(length, at::kLong);
    const at::Tensor offsets = at::arange(0, length, 2, at::kLong);
    const at::Tensor factors = at::full({length}, 0.5);
    // The model returns the sums of bags by the operator, and the same by other means.
    const std::vector<at::Tensor> outputs = model.run({indices, offsets, factors});
    std::cout << outputs[0] << "\n";
    if (outputs[0].size(0) != offsets.size(0)) return 1;
    if (!at::allclose(outputs[0], outputs[1])) return 1;
  }
  return 0;
}
