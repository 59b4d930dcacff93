#pragma once

#include <cuda/launch.h>

namespace myemb::cuda {

// Whether no row can be read: a table without columns, or without rows for any lookup.
inline bool has_nothing_to_read(const Rows& rows, const BagLookups& lookups) {
  return rows.dim == 0 || (rows.count == 0 && lookups.indices.count > 0);
}

// Asserts what the reductions assert on their way, where there is nothing to reduce.
int launch_bags_check(const BagLookups& lookups, Stream stream);

}  // namespace myemb::cuda
