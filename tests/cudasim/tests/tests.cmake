# The simulator's own tests. The compiler is nvcc's; the oracle is C++.
add_library(cudasim_test_kernels OBJECT
  tests/bugs.cu
  tests/cub_radix_sort.cu
  tests/cub_scan.cu
  tests/language.cu)
target_compile_features(cudasim_test_kernels PRIVATE cuda_std_20)
cudasim_cuda_options(cudasim_test_kernels)
set_source_files_properties(tests/language.cu PROPERTIES COMPILE_OPTIONS --fmad=false)

add_executable(cudasim_tests
  tests/bugs_test.cpp
  tests/cub_test.cpp
  tests/execution_test.cpp
  tests/language_test.cpp
  tests/memory_test.cpp
  tests/opcode_bits_test.cpp
  tests/opcode_conversion_test.cpp
  tests/opcode_float_test.cpp
  tests/opcode_integer_test.cpp
  tests/opcodes.cpp)
target_compile_options(cudasim_tests PRIVATE -Wall -Wextra -Wno-restrict)   # GCC bug 105651
target_compile_definitions(cudasim_tests PRIVATE
  CUDASIM_BUGS_SOURCE="${CMAKE_CURRENT_SOURCE_DIR}/tests/bugs.cu")
target_include_directories(cudasim_tests SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(cudasim_tests PRIVATE cudasim_test_kernels cudasim quadmath GTest::gtest GTest::gtest_main)
set_target_properties(cudasim_tests PROPERTIES CUDA_RUNTIME_LIBRARY None LINKER_LANGUAGE CXX)
add_test(NAME cudasim COMMAND cudasim_tests)
