# The Python module myemb._C, on the pybind11 that torch ships: both then agree on its internals.
if(NOT Python_Development.Module_FOUND)
  message(FATAL_ERROR "myemb: MYEMB_PYTHON=ON needs the headers of the Python ${Python_VERSION} in "
    "${Python_EXECUTABLE}: install python3-dev, or choose another with -DPython_EXECUTABLE=<path>.")
endif()
find_library(MYEMB_TORCH_PYTHON_LIBRARY torch_python
  PATHS ${TORCH_INSTALL_PREFIX}/lib NO_DEFAULT_PATH NO_CACHE)
if(NOT MYEMB_TORCH_PYTHON_LIBRARY)
  message(FATAL_ERROR "myemb: MYEMB_PYTHON=ON, but ${TORCH_INSTALL_PREFIX} is a LibTorch without "
    "Python: use the torch of a Python environment.")
endif()

Python_add_library(_C MODULE WITH_SOABI csrc/python/module.cpp)
target_link_libraries(_C PRIVATE myemb myemb_options ${MYEMB_TORCH_PYTHON_LIBRARY})
