#pragma once

// Updates of tables during backward(), below the optimizers of myemb/optim.h.

#include <ATen/core/Tensor.h>
#include <myemb/export.h>
#include <myemb/update.h>

#include <functional>
#include <memory>
#include <vector>

namespace myemb {

// What embedding_update_ takes beside the gradient.
struct UpdateStep {
  std::vector<at::Tensor> state;
  UpdateOptions options;
};

// Begins the next step of an optimizer for a table; `sparse`: whether only some rows have a
// gradient. Called once in each backward pass that reaches the table, on autograd's thread.
using NextStep = std::function<UpdateStep(bool sparse)>;

// A table that is fused as long as this lives.
class FusedTable;

// From now on backward() updates `table` (V, D), a leaf that requires grad, and stores no gradient
// of it: when all gradients of a pass are there, those of lookups by myemb's ops without being
// computed, embedding_update_ makes the step that the whole gradient asks for.
// torch::autograd::grad still returns the gradient. Throws c10::Error if the table is no such leaf
// or is fused already, and backward does if it is to be differentiated itself (create_graph), or if
// there are hooks behind the table's AccumulateGrad node, such as those of distributed data
// parallelism, which would wait for a gradient. With re-entrant checkpointing each checkpoint is a
// pass of its own.
MYEMB_API std::shared_ptr<FusedTable> fuse_in_backward(const at::Tensor& table, NextStep next_step);

}  // namespace myemb
