# Installs one tree for both uses; in a wheel its root is site-packages/myemb:
#   lib/libmyemb.so  include/myemb/*.h  share/cmake/myemb/*  and, as component "python", _C.*.so
include(CMakePackageConfigHelpers)

# libmyemb finds torch's libraries as its sibling in site-packages, else where this build found
# them; with CUDA also torch's libcudart, or the toolkit's own, perhaps older one would be loaded.
set(_rpath "$ORIGIN/../../torch/lib" "${TORCH_INSTALL_PREFIX}/lib")
if(MYEMB_WITH_CUDA)
  set(_nvidia nvidia/cu${CUDAToolkit_VERSION_MAJOR}/lib)
  cmake_path(GET TORCH_INSTALL_PREFIX PARENT_PATH _site_packages)
  list(APPEND _rpath "$ORIGIN/../../${_nvidia}" "${_site_packages}/${_nvidia}")
endif()
set_target_properties(myemb PROPERTIES
  INSTALL_RPATH "${_rpath}"
  BUILD_WITH_INSTALL_RPATH ON   # or CMake would put the toolkit's libcudart first in the build tree
  INSTALL_RPATH_USE_LINK_PATH OFF)
install(TARGETS myemb EXPORT myembTargets LIBRARY DESTINATION lib)

if(MYEMB_PYTHON)
  set_target_properties(_C PROPERTIES
    INSTALL_RPATH "$ORIGIN/lib;$ORIGIN/../torch/lib;${TORCH_INSTALL_PREFIX}/lib"
    BUILD_WITH_INSTALL_RPATH ON)
  install(TARGETS _C LIBRARY DESTINATION . COMPONENT python EXCLUDE_FROM_ALL)
endif()

install(FILES
  csrc/include/myemb/export.h
  csrc/include/myemb/functional.h
  csrc/include/myemb/fuse.h
  csrc/include/myemb/nn.h
  csrc/include/myemb/memory.h
  csrc/include/myemb/update.h
  csrc/include/myemb/ops.h
  ${CMAKE_CURRENT_BINARY_DIR}/include/myemb/version.h
  DESTINATION include/myemb)

set(_package share/cmake/myemb)
configure_package_config_file(
  cmake/myembConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/myembConfig.cmake
  INSTALL_DESTINATION ${_package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  ${CMAKE_CURRENT_BINARY_DIR}/myembConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT myembTargets NAMESPACE myemb:: DESTINATION ${_package})
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/myembConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/myembConfigVersion.cmake
  cmake/MyembFindTorch.cmake
  DESTINATION ${_package})
