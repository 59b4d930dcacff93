# CPU kernels for several instruction sets, chosen when the program runs (csrc/cpu/dispatch.cpp).
if(DEFINED MYEMB_CPU_ISAS)
  # "baseline" alone, where compiling less matters more than speed
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(MYEMB_CPU_ISAS baseline avx2 avx512)
else()
  set(MYEMB_CPU_ISAS baseline)   # NEON is part of the baseline of aarch64
endif()
set(MYEMB_FLAGS_baseline "")
set(MYEMB_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(MYEMB_FLAGS_avx512
  -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -mprefer-vector-width=512)

# myemb_add_cpu_kernels(target sources...): compiles each source once per instruction set, with
# MYEMB_ISA as the name of the namespace in myemb that its kernels are in.
#
# The kernels include no torch header. An inline function of somebody else, compiled here for
# AVX-512, could be the copy that the linker keeps for the whole library; it would then crash on
# older CPUs (tests/install checks with nm).
function(myemb_add_cpu_kernels target)
  foreach(isa IN LISTS MYEMB_CPU_ISAS)   # baseline first: the linker keeps the first copy
    set(objects ${target}_kernels_${isa})
    add_library(${objects} OBJECT ${ARGN})
    target_compile_features(${objects} PRIVATE cxx_std_20)
    target_compile_definitions(${objects} PRIVATE MYEMB_ISA=${isa})
    # No contraction to fused multiply-add: the same bits from every instruction set.
    target_compile_options(${objects} PRIVATE
      ${MYEMB_FLAGS_${isa}} -O3 -ffp-contract=off -Wall -Wextra $<$<BOOL:${MYEMB_WERROR}>:-Werror>)
    if(MYEMB_SANITIZE)
      target_compile_options(${objects} PRIVATE ${MYEMB_SANITIZE_OPTIONS})
    endif()
    target_include_directories(${objects} PRIVATE
      ${CMAKE_CURRENT_SOURCE_DIR}/csrc ${CMAKE_CURRENT_SOURCE_DIR}/csrc/include)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endforeach()
  if("avx2" IN_LIST MYEMB_CPU_ISAS)
    target_compile_definitions(${target} PRIVATE MYEMB_X86_KERNELS=1)
  endif()
endfunction()
