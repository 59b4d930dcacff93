#pragma once

// What update.cu calls and update_*.cu define.

#include <cuda/launch_tables.h>

namespace myemb::cuda {

// The kernels of a rule for tables of T. Each family of rules is compiled in a file of its own.
template <typename T, typename Rule>
struct RuleKernels {
  static int update_all(const DenseUpdate& args, const Rule& rule, Stream stream);

  // The chunks of long runs are summed up already, and row-wise states are up to date.
  static int update_runs(const RowsUpdate& args, const Rule& rule, Stream stream);
  static int update_tables(const TablesRowsUpdate& args, const Rule& rule, Stream stream);
};

}  // namespace myemb::cuda
