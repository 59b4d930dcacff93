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
#include <type_traits>
#include <utility>
#include <vector>

namespace myemb {

// Whether a node is asked for the gradient of each differentiable input.
template <size_t kInputs>
using WantedGradients = std::array<bool, kInputs>;

namespace detail {

template <typename Call>
struct InputsOf {
  using Wanted = std::vector<bool>;
};
template <typename Call>
  requires requires { Call::kInputs; }
struct InputsOf<Call> {
  using Wanted = WantedGradients<Call::kInputs>;
};

template <typename Tensors>
inline constexpr bool kHasList = false;
template <typename... Members>
inline constexpr bool kHasList<std::tuple<Members...>> =
    (std::is_same_v<Members, std::vector<at::Tensor>&> || ...);

}  // namespace detail

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
//   kName, kInputs      the node's name; the number of differentiable inputs, which are its edges.
//                       Without kInputs there are as many as a call has: vectors instead of arrays
//   tensors()           a tuple of references to its tensors, at::Tensor or OptionalTensor, of
//                       which the last may be a std::vector<at::Tensor>
//   options()           a tuple of references to everything else
//   gradients(grad, wanted)   a std::array of kInputs gradients, undefined where not wanted; grad
//                             is the gradient of the one output, and defined
template <typename Call>
class CallNode final : public torch::autograd::Node {
  using SavedVariable = torch::autograd::SavedVariable;
  using variable_list = torch::autograd::variable_list;
  using Wanted = typename detail::InputsOf<Call>::Wanted;
  using Tensors = decltype(std::declval<Call&>().tensors());
  using Saved = std::conditional_t<detail::kHasList<Tensors>, std::vector<SavedVariable>,
                                   std::array<SavedVariable, std::tuple_size_v<Tensors>>>;

 public:
  CallNode(torch::autograd::edge_list&& inputs, Call&& call)
      : Node(std::move(inputs)), call_(std::move(call)) {
    if constexpr (detail::kHasList<Tensors>) {
      const auto& list = std::get<std::tuple_size_v<Tensors> - 1>(call_.tensors());
      saved_.resize(std::tuple_size_v<Tensors> - 1 + list.size());
    }
    size_t i = 0;
    for_each(call_.tensors(), [&](auto& tensor) { save(tensor, i); });
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
    if (!grads[0].defined()) return variable_list(num_outputs());
    // Released by another thread from here on, the tensors live as long as this call.
    return gradients(grads[0], call_, unpacked(), wanted_gradients());
  }

 private:
  template <typename Tuple, typename F>
  static void for_each(Tuple&& members, const F& f) {
    std::apply([&](auto&... member) { (f(member), ...); }, members);
  }

  // SavedVariable alone keeps a tensor, so that it can be released.
  template <typename T>
  void save(T& tensor, size_t& i) {
    saved_[i++] = SavedVariable(tensor, /*is_output=*/false);
    tensor = T();
  }
  void save(std::vector<at::Tensor>& list, size_t& i) {
    for (at::Tensor& tensor : list) save(tensor, i);
  }

  static void load(at::Tensor& tensor, variable_list& from, size_t& i) {
    tensor = std::move(from[i++]);
  }
  static void load(OptionalTensor& tensor, variable_list& from, size_t& i) {
    at::Tensor& value = from[i++];
    if (value.defined()) tensor = std::move(value);
  }
  static void load(std::vector<at::Tensor>& list, variable_list& from, size_t& i) {
    list.assign(std::make_move_iterator(from.begin() + static_cast<std::ptrdiff_t>(i)),
                std::make_move_iterator(from.end()));
  }

  static variable_list gradients(const at::Tensor& grad, Call call, variable_list&& tensors,
                                 const Wanted& wanted) {
    size_t i = 0;
    for_each(call.tensors(), [&](auto& tensor) { load(tensor, tensors, i); });
    auto found = call.gradients(grad, wanted);
    return {std::make_move_iterator(found.begin()), std::make_move_iterator(found.end())};
  }

  static variable_list boxed_gradients(const variable_list& grads,
                                       const std::vector<c10::IValue>& kept) {
    torch::dynamo::autograd::PackedArgs args(kept);
    const auto wanted_list = args.unpack<std::vector<bool>>();
    if (!grads[0].defined()) return variable_list(wanted_list.size());
    Wanted wanted = empty_wanted(wanted_list.size());
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
    tensors.reserve(saved_.size());
    for (const SavedVariable& saved : saved_) tensors.push_back(saved.unpack());
    return tensors;
  }

  Wanted wanted_gradients() const {
    Wanted wanted = empty_wanted(num_outputs());
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = task_should_compute_output(i);
    return wanted;
  }

  static Wanted empty_wanted([[maybe_unused]] size_t count) {
    if constexpr (std::is_same_v<Wanted, std::vector<bool>>) {
      return Wanted(count);
    } else {
      return Wanted{};
    }
  }

  Call call_;  // its tensors are in saved_
  Saved saved_;
};

// Makes `output`, which a kernel has just computed, the result of `call` with these differentiable
// inputs.
template <typename Call, typename... Inputs>
at::Tensor with_gradient(at::Tensor output, Call&& call, const Inputs&... inputs) {
  if constexpr (requires { Call::kInputs; }) static_assert(sizeof...(Inputs) == Call::kInputs);
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
