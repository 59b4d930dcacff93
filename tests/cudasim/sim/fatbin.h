// The container in which nvcc puts device code into a host object.
#pragma once

#include <string>
#include <vector>

namespace cudasim {

struct PtxImage {
  int arch;
  std::string text;
};

// `wrapper` is what nvcc's host code passes to __cudaRegisterFatBinary.
std::vector<PtxImage> ptx_images(const void* wrapper);

}  // namespace cudasim
