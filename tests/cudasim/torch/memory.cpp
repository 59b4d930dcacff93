#include <tests/cudasim/torch/memory.h>

#include <ATen/core/Tensor.h>
#include <c10/core/CPUAllocator.h>
#include <tests/cudasim/sim/cudasim.h>
#include <tests/cudasim/torch/calls.h>

#include <mutex>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace myemb::simulated {
namespace {

// Where the ranges begin that the simulator knows. Never destroyed: tensors outlive everything else
// in a Python process.
std::unordered_set<const void*>& known_ranges() {
  static auto* const ranges = new std::unordered_set<const void*>;
  return *ranges;
}

// Returns whether it was news.
bool announce(const void* data, size_t bytes) {
  const std::lock_guard lock(simulator_lock());
  if (data == nullptr || bytes == 0 || !known_ranges().insert(data).second) return false;
  cudasim::add_memory(data, bytes, /*initialised=*/true);
  return true;
}

void forget(const void* data) {
  const std::lock_guard lock(simulator_lock());
  if (known_ranges().erase(data) > 0) cudasim::remove_memory(data);
}

// Allocates as torch does, and tells the simulator.
class AnnouncingAllocator final : public c10::Allocator {
 public:
  explicit AnnouncingAllocator(c10::Allocator* inner) : inner_(inner) {
    TORCH_INTERNAL_ASSERT(inner->raw_deleter() != nullptr);
  }

  c10::DataPtr allocate(size_t bytes) override {
    void* const data = inner_->raw_allocate(bytes);
    announce(data, bytes);
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void release(void* data);

  c10::Allocator* inner_;
};

// Never destroyed, either.
AnnouncingAllocator& allocator() {
  static auto* const instance = new AnnouncingAllocator(c10::GetCPUAllocator());
  return *instance;
}

void AnnouncingAllocator::release(void* data) {
  forget(data);
  allocator().inner_->raw_deallocate(data);
}

// What one op was given that the simulator had not known.
struct Announced final : at::ObserverContext {
  std::vector<const void*> ranges;
};

void announce_storage(const at::Tensor& tensor, Announced& announced) {
  if (!tensor.defined() || !tensor.is_cpu()) return;
  if (tensor.is_sparse()) {
    announce_storage(tensor._indices(), announced);
    announce_storage(tensor._values(), announced);
    return;
  }
  if (!tensor.has_storage()) return;
  c10::StorageImpl& storage = *tensor.storage().unsafeGetStorageImpl();
  const void* const data = storage._mutable_data_ptr_no_checks().get();
  const auto bytes = storage.sym_nbytes().maybe_as_int();  // nothing for a fake tensor
  if (bytes && announce(data, static_cast<size_t>(*bytes))) announced.ranges.push_back(data);
}

std::unique_ptr<at::ObserverContext> enter_op(const at::RecordFunction& function) {
  if (!std::string_view(function.name()).starts_with("myemb::")) return nullptr;
  auto announced = std::make_unique<Announced>();
  for (const c10::IValue& input : function.inputs()) {
    if (input.isTensor()) announce_storage(input.toTensor(), *announced);
    if (!input.isTensorList()) continue;
    for (const at::Tensor& tensor : input.toTensorVector()) announce_storage(tensor, *announced);
  }
  return announced;
}

void leave_op(const at::RecordFunction&, at::ObserverContext* context) {
  if (context == nullptr) return;
  for (const void* data : static_cast<Announced*>(context)->ranges) forget(data);
}

}  // namespace

void announce_cpu_tensors() {
  constexpr uint8_t kAboveTorchsOwn = 100;
  c10::SetCPUAllocator(&allocator(), kAboveTorchsOwn);
}

ForeignInputs::ForeignInputs()
    : handle_(at::addThreadLocalCallback(at::RecordFunctionCallback(&enter_op, &leave_op)
                                             .needsInputs(true)
                                             .scopes({at::RecordScope::FUNCTION}))) {}

ForeignInputs::~ForeignInputs() { at::removeCallback(handle_); }

}  // namespace myemb::simulated
