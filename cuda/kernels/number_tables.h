#pragma once

#include <cuda/launch_tables.h>

namespace myemb::cuda {

// Fills in what is to be sorted, and the arrays of `args`. Rows and payloads are those of Groups.
int launch_number_tables(const GroupTables& args, void* rows, void* payloads, bool wide,
                         Stream stream);

}  // namespace myemb::cuda
