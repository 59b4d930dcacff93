#pragma once

// A step of an optimizer, from tensors to kernels.

#include <cpu/kernels/kernels.h>
#include <ops/update.h>

namespace myemb {

// The update of rows of these tables, without their gradients.
RowUpdate row_update_of(const ContiguousUpdate& tables, const UpdateOptions& options);

}  // namespace myemb
