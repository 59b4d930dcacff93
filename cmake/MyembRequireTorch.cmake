# Finds the torch to compile against, or stops with one sentence that says what to do.
find_package(Python 3.10 QUIET COMPONENTS Interpreter OPTIONAL_COMPONENTS Development.Module)
if(Python_Interpreter_FOUND AND NOT DEFINED MYEMB_TORCH_HINTS)
  # find_spec() and not `import torch`: that takes seconds, and cmake runs often.
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
      "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE MYEMB_TORCH_HINTS OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
include(MyembFindTorch)

if(NOT Torch_FOUND)
  message(FATAL_ERROR "myemb is compiled against PyTorch and none was found: run "
    "`pip install \"torch==${MYEMB_TORCH_MINOR}.*\"`, or set -DTorch_ROOT=<path of a LibTorch>.")
endif()
if(NOT "${Torch_VERSION}." MATCHES "^${MYEMB_TORCH_MINOR}\\.")
  message(FATAL_ERROR "myemb ${PROJECT_VERSION} needs torch ${MYEMB_TORCH_MINOR}, but torch "
    "${Torch_VERSION} was found in ${TORCH_INSTALL_PREFIX}: run "
    "`pip install \"torch==${MYEMB_TORCH_MINOR}.*\"`, or set -DTorch_ROOT=<path of that torch>.")
endif()
