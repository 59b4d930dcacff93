#pragma once

// The nodes of the autograd graph, one for each differentiable op.
//
// They are torch::autograd::Nodes and not torch::autograd::Functions: those keep what they save in
// a dictionary of boxed values, which on a few indices costs as much as the lookup itself.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ops/saved.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

namespace myemb {

// Whether a node is asked for the gradient of each differentiable input.
template <size_t kInputs>
using WantedGradients = std::array<bool, kInputs>;

// What compiled autograd puts into its graph: the gradients as a function of the incoming gradients
// and of everything that a node keeps, in boxes.
using BoxedGradients = torch::autograd::variable_list(const torch::autograd::variable_list&,
                                                      const std::vector<c10::IValue>&);

// Puts a call of `gradients` into the graph that compiled autograd records.
torch::autograd::variable_list record_gradients(const torch::autograd::Node& node,
                                                BoxedGradients* gradients,
                                                const torch::autograd::variable_list& grads,
                                                const torch::dynamo::autograd::PackedArgs& kept,
                                                torch::autograd::SwapSavedVariables& swapped);

// The node of one call of an op. What backward has to know of the call is a struct that has
//
//   kName, kInputs      the node's name; the number of differentiable inputs, which are its edges
//   tensors()           a tuple of references to its tensors, at::Tensor or OptionalTensor
//   options()           a tuple of references to everything else
//   gradients(grad, wanted)   a std::array of kInputs gradients, undefined where not wanted; grad
//                             is the gradient of the one output, and defined
template <typename Call>
class CallNode final : public torch::autograd::Node {
  using SavedVariable = torch::autograd::SavedVariable;
  using variable_list = torch::autograd::variable_list;
  using Wanted = WantedGradients<Call::kInputs>;

  static constexpr size_t kTensors = std::tuple_size_v<decltype(std::declval<Call&>().tensors())>;

 public:
  CallNode(torch::autograd::edge_list&& inputs, Call&& call)
      : Node(std::move(inputs)), call_(std::move(call)) {
    size_t i = 0;
    for_each(call_.tensors(), [&](auto& tensor) {
      saved_[i++] = SavedVariable(tensor, /*is_output=*/false);
      // SavedVariable alone keeps it, so that it can be released.
      tensor = std::remove_reference_t<decltype(tensor)>();
    });
  }

  std::string name() const override { return Call::kName; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& saved : saved_) saved.reset_data();
  }

  void compiled_args(torch::autograd::CompiledNodeArgs& args) const override {
    for (const SavedVariable& saved : saved_) args.collect(saved, /*is_output=*/false);
    Call call = call_;
    for_each(call.options(), [&](const auto& option) { args.collect(option); });
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::autograd::SwapSavedVariables& swapped) override {
    for (SavedVariable& saved : saved_) swapped.before(saved);
    for_each(call_.options(), [&](auto& option) { swapped.before(option); });
    torch::dynamo::autograd::PackedArgs kept;
    const Wanted wanted = wanted_gradients();
    kept.pack(std::vector<bool>(wanted.begin(), wanted.end()));
    kept.pack(unpacked());
    for_each(call_.options(), [&](const auto& option) { kept.pack(option); });
    variable_list gradients = record_gradients(*this, &boxed_gradients, grads, kept, swapped);
    for (SavedVariable& saved : saved_) swapped.after(saved);
    for_each(call_.options(), [&](auto& option) { swapped.after(option); });
    return gradients;
  }

 protected:
  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return variable_list(Call::kInputs);
    // Released by another thread from here on, the tensors live as long as this call.
    return gradients(grads[0], call_, unpacked(), wanted_gradients());
  }

 private:
  template <typename Tuple, typename F>
  static void for_each(Tuple&& members, const F& f) {
    std::apply([&](auto&... member) { (f(member), ...); }, members);
  }

  static void load(at::Tensor& tensor, at::Tensor&& value) { tensor = std::move(value); }
  static void load(OptionalTensor& tensor, at::Tensor&& value) {
    if (value.defined()) tensor = std::move(value);
  }

  static variable_list gradients(const at::Tensor& grad, Call call, variable_list&& tensors,
                                 const Wanted& wanted) {
    size_t i = 0;
    for_each(call.tensors(), [&](auto& tensor) { load(tensor, std::move(tensors[i++])); });
    auto found = call.gradients(grad, wanted);
    return {std::make_move_iterator(found.begin()), std::make_move_iterator(found.end())};
  }

  static variable_list boxed_gradients(const variable_list& grads,
                                       const std::vector<c10::IValue>& kept) {
    if (!grads[0].defined()) return variable_list(Call::kInputs);
    torch::dynamo::autograd::PackedArgs args(kept);
    const auto wanted_list = args.unpack<std::vector<bool>>();
    Wanted wanted{};
    std::copy_n(wanted_list.begin(), wanted.size(), wanted.begin());
    auto tensors = args.unpack<variable_list>();
    Call call;
    for_each(call.options(), [&](auto& option) {
      option = args.unpack<std::remove_reference_t<decltype(option)>>();
    });
    return gradients(grads[0], std::move(call), std::move(tensors), wanted);
  }

  // In the order of Call::tensors(). Throws if they were changed in place or released.
  variable_list unpacked() {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list tensors;
    tensors.reserve(kTensors);
    for (const SavedVariable& saved : saved_) tensors.push_back(saved.unpack());
    return tensors;
  }

  Wanted wanted_gradients() const {
    Wanted wanted;
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = task_should_compute_output(i);
    return wanted;
  }

  Call call_;  // its tensors are in saved_
  std::array<SavedVariable, kTensors> saved_;
};

// Makes `output`, which a kernel has just computed, the result of `call` with these differentiable
// inputs.
template <typename Call, typename... Inputs>
at::Tensor with_gradient(at::Tensor output, Call&& call, const Inputs&... inputs) {
  static_assert(sizeof...(Inputs) == Call::kInputs);
  const c10::intrusive_ptr<torch::autograd::Node> node = c10::make_intrusive<CallNode<Call>>(
      torch::autograd::collect_next_edges(inputs...), std::forward<Call>(call));
  torch::autograd::set_history(output, node);
  torch::autograd::fire_node_creation_hooks(node);
  return output;
}

// Goes on to the kernel of the device. `keys` are those that the autograd kernel was called with.
template <typename Op, typename... Args>
auto below_autograd(const Op& op, c10::DispatchKeySet keys, Args&&... args) {
  const at::AutoDispatchBelowADInplaceOrView below;
  return op.redispatch(keys & c10::after_autograd_keyset, std::forward<Args>(args)...);
}

}  // namespace myemb
