#pragma once

#include <cuda/launch.h>
#include <ops/update.h>

namespace myemb::cuda {

// What a step changes, as kernels take it.
TableState table_state(const ContiguousUpdate& tables, const UpdateOptions& options);

}  // namespace myemb::cuda
