# _cudasim, a Python module for the tests: the CUDA side of libmyemb, host code and kernels, on the
# GPU simulator of tests/cudasim. Neither it nor the simulator is installed.

# PTX of the oldest and of the newest GPU that the library is built for.
string(REGEX MATCHALL "[0-9]+" _architectures "${CMAKE_CUDA_ARCHITECTURES}")
if(NOT _architectures)   # "native", "all"
  set(_architectures 75 120)
endif()
list(SORT _architectures COMPARE NATURAL)
list(GET _architectures 0 _oldest)
list(GET _architectures -1 _newest)
set(_architectures ${_oldest} ${_newest})
list(REMOVE_DUPLICATES _architectures)
list(TRANSFORM _architectures APPEND -virtual OUTPUT_VARIABLE CUDASIM_ARCHITECTURES)

add_subdirectory(tests/cudasim)

Python_add_library(_cudasim MODULE WITH_SOABI
  ${MYEMB_CUDA_KERNELS}
  ${MYEMB_CUDA_HOST}
  csrc/ops/checks.cpp   # hidden in libmyemb
  csrc/ops/table_grads.cpp
  csrc/ops/tables_arguments.cpp
  csrc/ops/update_arguments.cpp
  csrc/ops/views.cpp
  tests/cudasim/torch/device.cpp
  tests/cudasim/torch/host_calls.cpp
  tests/cudasim/torch/memory.cpp
  tests/cudasim/torch/module.cpp)
cudasim_cuda_options(_cudasim)
myemb_precompile(_cudasim <ATen/core/dispatch/Dispatcher.h> <torch/library.h>)
target_compile_features(_cudasim PRIVATE cuda_std_20)
target_compile_options(_cudasim PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${MYEMB_CUDA_FLAGS}>")
list(JOIN _architectures , _architectures)
set_source_files_properties(tests/cudasim/torch/module.cpp PROPERTIES
  COMPILE_DEFINITIONS MYEMB_CUDASIM_ARCHITECTURES=${_architectures})
set_target_properties(_cudasim PROPERTIES LINKER_LANGUAGE CXX)   # nothing of nvcc's is linked
target_link_libraries(_cudasim PRIVATE
  cudasim myemb myemb_options ${MYEMB_TORCH_PYTHON_LIBRARY})
# The CUDA runtime of this module is its own, whatever libcudart torch has loaded.
target_link_options(_cudasim PRIVATE -Wl,-Bsymbolic)
