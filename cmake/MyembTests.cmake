# The C++ tests: one binary, because loading libtorch takes a second, run per instruction set.
find_package(GTest QUIET)
if(NOT GTest_FOUND)
  message(FATAL_ERROR "myemb: the C++ tests need GoogleTest and none was found: "
    "install libgtest-dev, or configure with -DMYEMB_TESTS=OFF.")
endif()

add_executable(myemb_tests
  csrc/cpu/group.cpp   # hidden in libmyemb, tested by itself
  csrc/cpu/large_blocks.cpp
  csrc/cpu/tensors.cpp
  csrc/ops/checks.cpp
  csrc/ops/views.cpp
  tests/cpp/embedding_bag_test.cpp
  tests/cpp/embedding_test.cpp
  tests/cpp/functional_test.cpp
  tests/cpp/group_test.cpp
  tests/cpp/large_results_test.cpp
  tests/cpp/mapped_files_test.cpp
  tests/cpp/max_test.cpp
  tests/cpp/nn_test.cpp
  tests/cpp/numbers_test.cpp
  tests/cpp/optim_archive_test.cpp
  tests/cpp/optim_bits_test.cpp
  tests/cpp/optim_fused_test.cpp
  tests/cpp/optim_test.cpp
  tests/cpp/power_test.cpp
  tests/cpp/renorm_test.cpp
  tests/cpp/simd_test.cpp
  tests/cpp/tables_test.cpp
  tests/cpp/threads_test.cpp)
set_source_files_properties(tests/cpp/max_test.cpp tests/cpp/power_test.cpp tests/cpp/simd_test.cpp
  PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
target_compile_options(myemb_tests PRIVATE -O1)   # compiles a quarter faster
myemb_precompile(myemb_tests <gtest/gtest.h> <ATen/ATen.h>)
target_link_libraries(myemb_tests PRIVATE myemb myemb_options GTest::gtest_main)

add_test(NAME cpp COMMAND myemb_tests)
add_test(NAME cpp-baseline COMMAND myemb_tests)
set_tests_properties(cpp-baseline PROPERTIES ENVIRONMENT ATEN_CPU_CAPABILITY=default)
if("avx2" IN_LIST MYEMB_CPU_ISAS)
  add_test(NAME cpp-avx2 COMMAND myemb_tests)
  set_tests_properties(cpp-avx2 PROPERTIES ENVIRONMENT ATEN_CPU_CAPABILITY=avx2)
endif()
