# find_package(Torch) without a CUDA toolkit: for our build, and installed with the CMake package.
#
# Without the toolkit a CUDA build of torch refuses to be found ("Your installed Caffe2 version uses
# CUDA but I cannot find the CUDA libraries", pytorch#73427), although its C++ API needs none. With
# the toolkit it adds nvcc flags for every GPU it sees, and fails where it sees none. Both happen in
# Caffe2/public/cuda.cmake, which returns at once if the target torch::cudart exists, so an empty one
# is made here. A project that wants torch's own CUDA set-up calls find_package(Torch) first.
#
# Reads MYEMB_TORCH_HINTS, folders to look in; Torch_ROOT and CMAKE_PREFIX_PATH come before them.
if(NOT TARGET torch::cudart)
  add_library(torch::cudart INTERFACE IMPORTED)
endif()
if(NOT DEFINED kineto_LIBRARY)
  set(kineto_LIBRARY c10)   # kineto is not in the wheel; this silences TorchConfig's warning
endif()
find_package(Torch QUIET CONFIG HINTS ${MYEMB_TORCH_HINTS})
