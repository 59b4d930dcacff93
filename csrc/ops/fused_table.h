#pragma once

// Tables that are updated during backward(): no gradient of theirs is stored.
//
// The node of a lookup does not compute the gradient of a fused table but leaves what is needed for
// it with the FusedTable. autograd runs the AccumulateGrad node of the table when every node of the
// pass that may have a gradient for it is through; a hook of that node, which would store the sum,
// makes the step instead. So one table looked up twice, or used by other operations, too, gets the
// one step that its whole gradient asks for.

#include <myemb/fuse.h>
#include <myemb/ops.h>

#include <torch/csrc/autograd/function.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace myemb {

// The gradient of a table, as the node of a lookup has it: `grad` is that of the output.
struct LookupGradient {
  at::Tensor grad;  // (B, D)
  UpdateLookups lookups;
};

class FusedTable : public std::enable_shared_from_this<FusedTable> {
 public:
  // See fuse_in_backward (myemb/fuse.h).
  static std::shared_ptr<FusedTable> fuse(const at::Tensor& weight, NextStep next_step);

  // That of this very tensor, or null.
  static std::shared_ptr<FusedTable> of(const at::Tensor& weight);

  FusedTable(const FusedTable&) = delete;
  FusedTable& operator=(const FusedTable&) = delete;

  // Whether this backward pass would store a gradient of the table, and not return one
  // (torch.autograd.grad), or none. Throws c10::Error if it is to be differentiated itself.
  bool takes_gradient() const;

  // Keeps a gradient until all of this pass are there.
  void add(LookupGradient gradient);

 private:
  // Of one pass. autograd keeps it and drops it with the pass, however that ends.
  using Pending = std::vector<LookupGradient>;

  FusedTable(const at::Tensor& weight, NextStep next_step);
  void release();
  std::vector<LookupGradient> take_pending();
  // The step by everything that was added and `other`, what other operations gave; may be
  // undefined.
  void update(const at::Tensor& other);

  friend class FusedTableHook;

  const at::Tensor weight_;
  const c10::intrusive_ptr<torch::autograd::Node> accumulate_;
  const NextStep next_step_;
  std::atomic<bool> released_{false};
  std::mutex mutex_;
  std::map<int, std::weak_ptr<Pending>> pending_;  // by graph task
};

}  // namespace myemb
