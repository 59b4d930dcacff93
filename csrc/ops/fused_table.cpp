#include <ops/fused_table.h>

#include <ops/checks.h>
#include <ops/saved.h>
#include <ops/sparse_rows.h>
#include <ops/types.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <atomic>
#include <unordered_map>
#include <utility>

namespace myemb {
namespace {

// Every fused table of the process, by its tensor.
struct Registry {
  std::mutex mutex;
  std::unordered_map<const c10::TensorImpl*, std::weak_ptr<FusedTable>> tables;
  std::atomic<size_t> count{0};  // looked at first: most programs have none
};

Registry& registry() {
  static auto* const tables = new Registry;  // outlives the tables of other statics
  return *tables;
}

// The gradient of the table with an entry for each lookup, or in mode max for each row.
at::Tensor sparse_gradient(const LookupGradient& gradient, const at::Tensor& weight) {
  const auto& [grad, of] = gradient;
  const c10::SymInt num_weights = weight.sym_size(0);
  const at::Tensor lookups = of.indices->reshape({-1}).to(at::kLong);
  if (is_mode(of.mode, BagMode::Max)) {
    const at::Tensor dense = embedding_bag_dense_backward(
        grad, *of.indices, of.offsets, of.positions, num_weights, of.scale_grad_by_freq, of.mode,
        of.per_sample_weights, of.include_last_offset, of.padding_idx);
    const at::Tensor rows = std::get<0>(at::_unique(lookups));
    return sparse_rows(rows, dense.index_select(0, rows), num_weights,
                       wrap_padding_idx(of.padding_idx, num_weights));
  }
  const at::Tensor values = embedding_bag_sparse_backward(
      grad, *of.indices, of.offsets, num_weights, of.scale_grad_by_freq, of.mode,
      of.per_sample_weights, of.include_last_offset, of.padding_idx);
  return sparse_rows(lookups, values, num_weights, wrap_padding_idx(of.padding_idx, num_weights));
}

}  // namespace

// Stands before the node that would store the gradient, and leaves it nothing to store.
class FusedTableHook final : public torch::autograd::FunctionPreHook {
 public:
  explicit FusedTableHook(FusedTable* table) : table_(table) {}

  torch::autograd::variable_list operator()(const torch::autograd::variable_list& grads) override {
    // Keeps the table while it works: somebody may drop it meanwhile.
    if (const auto table = table_->weak_from_this().lock()) {
      table->update(grads[0]);
      return {at::Tensor()};
    }
    return grads;
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& /*args*/) const override {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false,
        "myemb: compiled autograd cannot trace the update of a table that is fused into "
        "backward; call backward() outside of it, or do not fuse");
  }

  bool is_of(const FusedTable* table) const { return table_ == table; }

 private:
  FusedTable* const table_;  // which removes this hook before it is gone
};

FusedTable::FusedTable(const at::Tensor& weight, NextStep next_step)
    : weight_(weight),
      accumulate_(torch::autograd::impl::grad_accumulator(weight)),
      next_step_(std::move(next_step)) {
  accumulate_->add_pre_hook(std::make_unique<FusedTableHook>(this));
}

void FusedTable::release() {
  released_ = true;
  std::erase_if(accumulate_->pre_hooks(), [&](const auto& hook) {
    const auto* const ours = dynamic_cast<const FusedTableHook*>(hook.get());
    return ours && ours->is_of(this);
  });
  const std::lock_guard<std::mutex> lock(registry().mutex);
  registry().tables.erase(weight_.unsafeGetTensorImpl());
  --registry().count;
}

std::shared_ptr<FusedTable> FusedTable::fuse(const at::Tensor& weight, NextStep next_step) {
  TORCH_CHECK(weight.is_leaf() && weight.requires_grad(),
              "fuse_in_backward: a table has to be a leaf that requires grad");
  TORCH_CHECK_VALUE(weight.dim() == 2, "fuse_in_backward: a table has to be 2-D, but has shape ",
                    weight.sizes());
  TORCH_CHECK(!of(weight), "fuse_in_backward: this table is fused already");
  const std::shared_ptr<FusedTable> table(new FusedTable(weight, std::move(next_step)));
  const std::lock_guard<std::mutex> lock(registry().mutex);
  registry().tables[weight.unsafeGetTensorImpl()] = table;
  ++registry().count;
  // Graphs may keep the table longer than whoever fused it.
  return {table.get(), [table](FusedTable*) { table->release(); }};
}

std::shared_ptr<FusedTable> FusedTable::of(const at::Tensor& weight) {
  if (registry().count.load(std::memory_order_relaxed) == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(registry().mutex);
  const auto found = registry().tables.find(weight.unsafeGetTensorImpl());
  return found == registry().tables.end() ? nullptr : found->second.lock();
}

bool FusedTable::takes_gradient() const {
  if (released_) return false;
  const auto* const executed = torch::autograd::get_current_graph_task_exec_info();
  if (executed && !executed->empty()) {
    const auto node = executed->find(accumulate_.get());
    if (node == executed->end() || !node->second.needed_) return false;
  }
  TORCH_CHECK(
      !at::GradMode::is_enabled(),
      "myemb: a table that is fused into backward cannot be differentiated twice: it is "
      "updated in the first pass (create_graph=True). Use torch.autograd.grad, which leaves "
      "it alone, or do not fuse.");
  return true;
}

FusedTable::Pending& FusedTable::pending() {
  std::weak_ptr<Pending>& known = pending_[torch::autograd::get_current_graph_task_id()];
  std::shared_ptr<Pending> pending = known.lock();
  if (!pending) {
    pending = std::make_shared<Pending>();
    known = pending;
    // Nothing to do at the end: the callback is what keeps the gradients until then.
    torch::autograd::Engine::get_default_engine().queue_callback([pending] {});
  }
  return *pending;
}

void FusedTable::add(LookupGradient gradient) {
  const std::lock_guard<std::mutex> lock(mutex_);
  pending().own.push_back(std::move(gradient));
}

void FusedTable::add(std::shared_ptr<JointGradient> gradient, int64_t t) {
  const std::lock_guard<std::mutex> lock(mutex_);
  pending().parts.push_back({std::move(gradient), t});
}

FusedTable::Pending FusedTable::take_pending() {
  const std::lock_guard<std::mutex> lock(mutex_);
  Pending taken;
  const auto found = pending_.find(torch::autograd::get_current_graph_task_id());
  if (found != pending_.end()) {
    if (const auto pending = found->second.lock()) taken = std::exchange(*pending, {});
  }
  std::erase_if(pending_, [&](const auto& entry) { return entry.second.expired(); });
  return taken;
}

void FusedTable::update(const at::Tensor& other) {
  auto [own, parts] = take_pending();
  if (own.empty() && parts.empty() && !other.defined()) return;
  TORCH_CHECK(
      accumulate_->post_hooks().empty(),
      "myemb: a table that is fused into backward stores no gradient, but somebody waits for "
      "it: DistributedDataParallel, whose processes would train different tables, or a hook "
      "of the table's AccumulateGrad node. Do not fuse this table.");
  const at::NoGradGuard no_grad;
  if (own.empty() && parts.size() == 1 && !other.defined()) {
    return parts[0].gradient->join(parts[0].table, shared_from_this());
  }
  for (const Pending::Part& part : parts) {
    for (LookupGradient& gradient : part.gradient->leave(part.table)) {
      own.push_back(std::move(gradient));
    }
  }
  if (own.size() == 1 && !other.defined()) {
    const auto [state, options] = next_step_(/*sparse=*/true);
    return embedding_update_(weight_, state, own[0].grad, options, own[0].lookups);
  }
  at::Tensor sum = other;
  for (const LookupGradient& gradient : own) {
    const at::Tensor rows = sparse_gradient(gradient, weight_);
    sum = sum.defined() ? sum + rows : rows;
  }
  const auto [state, options] = next_step_(sum.is_sparse());
  embedding_update_(weight_, state, sum, options);
}

void JointGradient::join(int64_t t, std::shared_ptr<FusedTable> table) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    members_.push_back({t, std::move(table)});
  }
  count_one();
}

std::vector<LookupGradient> JointGradient::leave(int64_t t) {
  std::vector<LookupGradient> gradient = gradient_of(t);
  count_one();
  return gradient;
}

void JointGradient::count_one() {
  std::vector<Member> members;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--missing_ > 0) return;
    members = std::move(members_);
  }
  if (!members.empty()) update(members);
}

std::shared_ptr<FusedTable> fuse_in_backward(const at::Tensor& table, NextStep next_step) {
  return FusedTable::fuse(table, std::move(next_step));
}

}  // namespace myemb
