// The loops of the limit for Python, and the barest operators that a dispatcher can call.
#include "loops.h"

#include <ATen/ATen.h>
#include <sys/mman.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/extension.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using limit::Tuning;
using MaybeTensor = std::optional<Tensor>;

constexpr int64_t kHugePage = int64_t{2} << 20;

limit::Type type_of(const Tensor& table) {
  switch (table.scalar_type()) {
    case at::kFloat:
      return limit::Type::kFloat;
    case at::kDouble:
      return limit::Type::kDouble;
    case at::kBFloat16:
      return limit::Type::kBFloat16;
    default:
      return limit::Type::kHalf;
  }
}

char* bytes(const Tensor& t) { return static_cast<char*>(t.data_ptr()); }
int64_t* longs(const Tensor& t) { return t.data_ptr<int64_t>(); }

// Memory that nobody has touched, in huge pages where the kernel grants them.
Tensor empty_huge(at::IntArrayRef shape, at::ScalarType dtype) {
  const int64_t wanted = c10::multiply_integers(shape) * c10::elementSize(dtype);
  const int64_t size = (wanted + 2 * kHugePage - 1) / kHugePage * kHugePage;
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK(mapped != MAP_FAILED, "mmap of ", size, " bytes failed");
  const auto begin = (reinterpret_cast<uintptr_t>(mapped) + kHugePage - 1) & -kHugePage;
  madvise(mapped, size, MADV_HUGEPAGE);
  const auto free = [mapped, size](void*) { munmap(mapped, size); };
  return at::from_blob(reinterpret_cast<void*>(begin), shape, free, at::dtype(dtype));
}

void gather(const Tensor& table, const Tensor& indices, const Tensor& out, Tuning tuning) {
  limit::gather(bytes(table), longs(indices), indices.numel(), table.size(1) * table.element_size(),
                bytes(out), tuning);
}

limit::Reduction reduction(const Tensor& table, const Tensor& indices, const Tensor& offsets,
                           const Tensor& out) {
  return {.type = type_of(table),
          .table = bytes(table),
          .width = table.size(1),
          .indices = longs(indices),
          .offsets = longs(offsets),
          .segments = offsets.numel() - 1,
          .factors = nullptr,
          .mean = false,
          .padding = -1,
          .out = bytes(out),
          .out_rows = nullptr,
          .num_out_rows = out.size(0),
          .sink = limit::Sink::kStore,
          .rate = 0,
          .states = {}};
}

void reduce_bags(const Tensor& table, const Tensor& indices, const Tensor& offsets,
                 const MaybeTensor& factors, bool mean, int64_t padding, const Tensor& out,
                 Tuning tuning) {
  auto args = reduction(table, indices, offsets, out);
  args.factors = factors ? factors->data_ptr() : nullptr;
  args.mean = mean;
  args.padding = padding;
  limit::reduce_sum(args, tuning);
}

void max_of_bags(const Tensor& table, const Tensor& indices, const Tensor& offsets, int64_t padding,
                 const Tensor& out, const MaybeTensor& positions, Tuning tuning) {
  auto args = reduction(table, indices, offsets, out);
  args.padding = padding;
  limit::reduce_max(args, positions ? longs(*positions) : nullptr, tuning);
}

void scatter_max(const Tensor& gradient, const Tensor& indices, const Tensor& offsets,
                 const Tensor& positions, const Tensor& out, Tuning tuning) {
  limit::scatter_max(reduction(gradient, indices, offsets, out), longs(positions), tuning);
}

void reduce_groups(const Tensor& gradient, const Tensor& sources, const MaybeTensor& factors,
                   const Tensor& rows, const Tensor& starts, limit::Sink sink, const Tensor& out,
                   Tuning tuning) {
  auto args = reduction(gradient, sources, starts, out);
  args.factors = factors ? factors->data_ptr() : nullptr;
  args.out_rows = sink == limit::Sink::kStore ? nullptr : longs(rows);
  args.sink = sink;
  limit::reduce_sum(args, tuning);
}

void update_groups(const Tensor& gradient, const Tensor& sources, const Tensor& rows,
                   const Tensor& starts, limit::Sink sink, const Tensor& weight,
                   const std::vector<Tensor>& states, double rate, Tuning tuning) {
  auto args = reduction(gradient, sources, starts, weight);
  args.out_rows = longs(rows);
  args.sink = sink;
  args.rate = static_cast<float>(rate);
  for (size_t s = 0; s < states.size(); ++s) args.states[s] = states[s].data_ptr<float>();
  limit::reduce_sum(args, tuning);
}

int64_t group(const Tensor& indices, int64_t num_rows, const Tensor& rows, const Tensor& starts,
              const Tensor& positions, const Tensor& scratch, Tuning tuning) {
  return limit::group(longs(indices), indices.numel(), num_rows,
                      {longs(rows), longs(starts), longs(positions)},
                      reinterpret_cast<uint32_t*>(scratch.data_ptr<int32_t>()), tuning.threads);
}

void renorm(const Tensor& table, const Tensor& rows, double max_norm, Tuning tuning) {
  limit::renorm(table.data_ptr<float>(), longs(rows), rows.numel(), table.size(1),
                static_cast<float>(max_norm), tuning);
}

// ---- the barest operators: allocate the result, run the loop
// --------------------------------------

constexpr Tuning kSmall{.ahead = 0, .stream = false, .threads = 1};

Tensor lookup(const Tensor& weight, const Tensor& indices) {
  const Tensor out = at::empty({indices.numel(), weight.size(1)}, weight.options());
  gather(weight, indices, out, kSmall);
  return out;
}

// Segments end where the next begins; here the offsets have their last one.
Tensor bag_of(bool mean, const Tensor& weight, const Tensor& indices, const Tensor& offsets) {
  const Tensor out = at::empty({offsets.numel() - 1, weight.size(1)}, weight.options());
  auto args = reduction(weight, indices, offsets, out);
  args.mean = mean;
  limit::reduce_sum(args, kSmall);
  return out;
}

Tensor bag(const Tensor& weight, const Tensor& indices, const Tensor& offsets) {
  return bag_of(/*mean=*/false, weight, indices, offsets);
}

class Lookup : public torch::autograd::Function<Lookup> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& weight,
                        const Tensor& indices) {
    context->saved_data["rows"] = weight.size(0);
    context->save_for_backward({indices});
    const at::AutoDispatchBelowADInplaceOrView below;
    return lookup(weight, indices);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const Tensor indices = context->get_saved_variables()[0];
    const Tensor& from = gradients[0];
    const Tensor out = at::zeros({context->saved_data["rows"].toInt(), from.size(1)});
    const int64_t width = from.size(1);
    for (int64_t i = 0; i < indices.numel(); ++i) {
      float* to = out.data_ptr<float>() + longs(indices)[i] * width;
      for (int64_t d = 0; d < width; ++d) to[d] += from.data_ptr<float>()[i * width + d];
    }
    return {out, Tensor()};
  }
};

Tensor lookup_with_gradient(const Tensor& weight, const Tensor& indices) {
  return Lookup::apply(weight, indices);
}

class MeanBag : public torch::autograd::Function<MeanBag> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& weight,
                        const Tensor& indices, const Tensor& offsets) {
    context->saved_data["rows"] = weight.size(0);
    context->save_for_backward({indices, offsets});
    const at::AutoDispatchBelowADInplaceOrView below;
    return bag_of(/*mean=*/true, weight, indices, offsets);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* /*context*/,
                                                 const torch::autograd::variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "trained_bag: only forward is timed");
  }
};

Tensor bag_with_gradient(const Tensor& weight, const Tensor& indices, const Tensor& offsets) {
  return MeanBag::apply(weight, indices, offsets);
}

TORCH_LIBRARY(myemb_limit, m) {
  m.def("lookup(Tensor weight, Tensor indices) -> Tensor");
  m.def("trained_lookup(Tensor weight, Tensor indices) -> Tensor");
  m.def("bag(Tensor weight, Tensor indices, Tensor offsets) -> Tensor");
  m.def("trained_bag(Tensor weight, Tensor indices, Tensor offsets) -> Tensor");
}

TORCH_LIBRARY_IMPL(myemb_limit, CPU, m) {
  m.impl("lookup", &lookup);
  m.impl("bag", &bag);
}

TORCH_LIBRARY_IMPL(myemb_limit, AutogradCPU, m) {
  m.impl("trained_lookup", &lookup_with_gradient);
  m.impl("trained_bag", &bag_with_gradient);
}

// ---- the same by a binding that knows their types
// ------------------------------------------------

Tensor call_lookup(const Tensor& weight, const Tensor& indices) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("myemb_limit::lookup", "")
                             .typed<Tensor(const Tensor&, const Tensor&)>();
  return op.call(weight, indices);
}

Tensor call_trained_lookup(const Tensor& weight, const Tensor& indices) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("myemb_limit::trained_lookup", "")
                             .typed<Tensor(const Tensor&, const Tensor&)>();
  return op.call(weight, indices);
}

Tensor call_bag(const Tensor& weight, const Tensor& indices, const Tensor& offsets) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("myemb_limit::bag", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&)>();
  return op.call(weight, indices, offsets);
}

Tensor call_trained_bag(const Tensor& weight, const Tensor& indices, const Tensor& offsets) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("myemb_limit::trained_bag", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&)>();
  return op.call(weight, indices, offsets);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  namespace py = pybind11;
  py::class_<Tuning>(m, "Tuning").def(py::init([](int64_t ahead, bool stream, int threads) {
    return Tuning{ahead, stream, threads};
  }));
  py::enum_<limit::Sink>(m, "Sink")
      .value("STORE", limit::Sink::kStore)
      .value("DENSE", limit::Sink::kDense)
      .value("SGD", limit::Sink::kSgd)
      .value("ADAGRAD", limit::Sink::kAdagrad)
      .value("ROW_WISE_ADAGRAD", limit::Sink::kRowWiseAdagrad)
      .value("ADAM", limit::Sink::kAdam);
  m.def("empty_huge", [](std::vector<int64_t> shape, const Tensor& like) {
    return empty_huge(shape, like.scalar_type());
  });
  m.def("gather", &gather);
  m.def("reduce_bags", &reduce_bags);
  m.def("max_of_bags", &max_of_bags);
  m.def("scatter_max", &scatter_max);
  m.def("reduce_groups", &reduce_groups);
  m.def("update_groups", &update_groups);
  m.def("group", &group);
  m.def("renorm", &renorm);
  m.def("spin", &limit::spin);
  m.def("call_lookup", &call_lookup);
  m.def("call_trained_lookup", &call_trained_lookup);
  m.def("call_bag", &call_bag);
  m.def("call_trained_bag", &call_trained_bag);
}
