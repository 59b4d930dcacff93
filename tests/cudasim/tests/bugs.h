// Kernels with one bug each, and the same kernels without it.
#pragma once

#include <cstdint>
#include <string>

namespace cudasim_test {

// One int array in, one out; what they hold depends on the case.
struct Arrays {
  int* in;
  int* out;
  int size;
};

struct BugCase {
  std::string name;
  void (*broken)(Arrays);
  void (*correct)(Arrays);
  const char* report;  // what the report must say
  const char* marker;  // the comment in bugs.cu that marks the line it must name
};

void launch_infinite_loop(Arrays arrays);

extern const BugCase kBugCases[];
extern const int kBugCaseCount;

}  // namespace cudasim_test
