#include <tests/cudasim/torch/host_calls.h>

#include <tests/cudasim/sim/cudasim.h>

#include <string>
#include <string_view>
#include <unordered_set>

namespace myemb::simulated {
namespace {

thread_local const char* watched_op = nullptr;
thread_local int depth = 0;  // of ATen calls: only what the op itself calls is judged

// With their overloads, because to.dtype stays on the device while to.device may leave it.
bool is_allowed(const std::string& name) {
  static const std::unordered_set<std::string_view> allowed{
      // allocation
      "aten::empty.memory_format", "aten::empty_like", "aten::empty_strided", "aten::new_empty",
      "aten::new_empty_strided",
      // copies and conversions
      "aten::clone", "aten::contiguous", "aten::copy_", "aten::to.dtype", "aten::reshape",
      // views
      "aten::_indices", "aten::_values", "aten::alias", "aten::as_strided", "aten::detach",
      "aten::expand", "aten::expand_as", "aten::flatten.using_ints", "aten::narrow",
      "aten::permute", "aten::select.int", "aten::slice.Tensor", "aten::squeeze",
      "aten::squeeze.dim", "aten::t", "aten::transpose.int", "aten::unsqueeze", "aten::view",
      "aten::view.dtype"};
  return allowed.contains(name);
}

std::string name_of(const at::RecordFunction& function) {
  const auto name = function.operator_name();
  if (!name) return function.name();
  return name->overload_name.empty() ? name->name : name->name + "." + name->overload_name;
}

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction& function) {
  const std::string name = name_of(function);
  if (name.starts_with("myemb::")) return nullptr;  // an op of ours is watched itself
  if (depth++ == 0 && !is_allowed(name)) {
    cudasim::reports().push_back(std::string("forbidden ATen call ") + name + " in the CUDA op " +
                                 watched_op);
  }
  return nullptr;
}

void leave(const at::RecordFunction& function, at::ObserverContext*) {
  if (!name_of(function).starts_with("myemb::")) --depth;
}

}  // namespace

HostCallWatch::HostCallWatch(const char* op) : outer_op_(watched_op) {
  if (outer_op_ == nullptr) {
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(&enter, &leave).scopes({at::RecordScope::FUNCTION}));
    depth = 0;
  }
  watched_op = op;
}

HostCallWatch::~HostCallWatch() {
  watched_op = outer_op_;
  if (outer_op_ == nullptr) at::removeCallback(handle_);
}

}  // namespace myemb::simulated
