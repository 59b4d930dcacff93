# Decides whether the CUDA kernels are built and for which GPUs.
#
# Sets MYEMB_WITH_CUDA and, if it is on, enables the language. The GPUs are chosen by
# -DCMAKE_CUDA_ARCHITECTURES or CUDAARCHS, else by TORCH_CUDA_ARCH_LIST in torch's spelling, else by
# the default below. None of it needs a GPU in the machine.
set(MYEMB_WITH_CUDA OFF)

# Every GPU that torch's own wheels serve, by the oldest of each binary-compatible family: code for
# 8.0 runs on 8.6 and 8.9, code for 10.0 on 10.3. The last entry also carries PTX, which the driver
# compiles for GPUs that come later.
set(MYEMB_DEFAULT_CUDA_ARCHITECTURES 75-real 80-real 90-real 100-real 120)

# The CUDA version of the torch that was found, or "": from version.py in a wheel, from
# build-version in a LibTorch archive.
function(myemb_torch_cuda_version result)
  set(version "")
  if(EXISTS ${TORCH_INSTALL_PREFIX}/version.py)
    file(STRINGS ${TORCH_INSTALL_PREFIX}/version.py line REGEX "^cuda[ :]")
    if("${line}" MATCHES "'([0-9]+\\.[0-9]+)'")
      set(version ${CMAKE_MATCH_1})
    endif()
  elseif(EXISTS ${TORCH_INSTALL_PREFIX}/build-version)
    file(STRINGS ${TORCH_INSTALL_PREFIX}/build-version line LIMIT_COUNT 1)
    if("${line}" MATCHES "\\+cu([0-9]+)([0-9])$")
      set(version ${CMAKE_MATCH_1}.${CMAKE_MATCH_2})
    endif()
  endif()
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

# "8.0;9.0+PTX", torch's spelling, to "80-real;90", CMake's.
function(myemb_translate_arch_list torch_list result)
  string(REGEX REPLACE "[ ,;]+" ";" items "${torch_list}")
  set(architectures "")
  foreach(item IN LISTS items)
    if(NOT item MATCHES "^([0-9]+)\\.([0-9][af]?)(\\+PTX)?$")
      message(FATAL_ERROR "myemb: \"${item}\" in TORCH_CUDA_ARCH_LIST is not a compute capability: "
        "write numbers such as \"8.0;9.0+PTX\".")
    endif()
    set(architecture ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
    if(NOT CMAKE_MATCH_3)
      string(APPEND architecture -real)
    endif()
    list(APPEND architectures ${architecture})
  endforeach()
  set(${result} "${architectures}" PARENT_SCOPE)
endfunction()

# Sets the nvcc to use where PyTorch would find it too: CUDACXX, CUDA_HOME, PATH, /usr/local/cuda.
macro(myemb_find_nvcc)
  if(NOT DEFINED ENV{CUDACXX} AND NOT CMAKE_CUDA_COMPILER)
    find_program(MYEMB_NVCC nvcc
      HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin NO_CACHE)
    if(MYEMB_NVCC)
      set(ENV{CUDACXX} ${MYEMB_NVCC})
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
endmacro()

macro(myemb_enable_cuda)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  string(REGEX MATCH "^[0-9]+" _torch_cuda_major "${MYEMB_TORCH_CUDA}")
  if(NOT CUDAToolkit_VERSION_MAJOR EQUAL _torch_cuda_major)
    message(FATAL_ERROR "myemb: nvcc is of CUDA ${CUDAToolkit_VERSION_MAJOR}."
      "${CUDAToolkit_VERSION_MINOR}, but this torch is built with CUDA ${MYEMB_TORCH_CUDA}: set "
      "CUDACXX to the nvcc of a CUDA ${_torch_cuda_major} toolkit, or leave the CUDA kernels out "
      "with MYEMB_CUDA=OFF.")
  endif()
  if(CMAKE_VERSION VERSION_LESS 3.25.2)   # does not know that nvcc has -std=c++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
  endif()
  set(MYEMB_WITH_CUDA ON)
endmacro()

if(NOT MYEMB_CUDA STREQUAL "OFF")
  myemb_torch_cuda_version(MYEMB_TORCH_CUDA)
  if(NOT TARGET torch_cuda)
    set(_why_not "this torch has no CUDA: install a CUDA build of torch ${MYEMB_TORCH_MINOR}")
  else()
    myemb_find_nvcc()
    if(NOT CMAKE_CUDA_COMPILER)
      set(_why_not "no working nvcc was found: set CUDACXX or CUDA_HOME")
    endif()
  endif()
  if(NOT _why_not)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
      if(DEFINED ENV{TORCH_CUDA_ARCH_LIST})
        myemb_translate_arch_list("$ENV{TORCH_CUDA_ARCH_LIST}" CMAKE_CUDA_ARCHITECTURES)
      else()
        set(CMAKE_CUDA_ARCHITECTURES ${MYEMB_DEFAULT_CUDA_ARCHITECTURES})
      endif()
    endif()
    myemb_enable_cuda()
  elseif(MYEMB_CUDA STREQUAL "ON")
    message(FATAL_ERROR "myemb: MYEMB_CUDA=ON, but ${_why_not}.")
  endif()
endif()

# No fused multiply-add: part of the numbers contract (docs/numbers.md).
set(MYEMB_CUDA_FLAGS --expt-relaxed-constexpr --fmad=false)

# A fat binary of five architectures is a fifth of the size then.
if(MYEMB_WITH_CUDA AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(MYEMB_CUDA_COMPRESSION --compress-mode=size)
endif()

# Adds CUDA sources to libmyemb: .cu files hold kernels and see no ATen, .cpp files are the host side.
function(myemb_add_cuda_sources target)
  target_sources(${target} PRIVATE ${ARGN})
  target_compile_definitions(${target} PRIVATE MYEMB_WITH_CUDA)
  target_compile_features(${target} PRIVATE cuda_std_20)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:${MYEMB_CUDA_FLAGS};${MYEMB_CUDA_COMPRESSION};-Xcompiler=-Wall,-Wextra>"
    $<$<AND:$<BOOL:${MYEMB_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings>)
  # torch_cuda_library, unlike torch_cuda, keeps libtorch_cuda.so needed if no symbol of it is used.
  target_link_libraries(${target} PRIVATE torch_cuda_library c10_cuda CUDA::cudart)
  # The runtime that torch has loaded, not a second one of our own.
  set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY Shared)
endfunction()
