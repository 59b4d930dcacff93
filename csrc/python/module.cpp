// myemb._C: the way into the dispatcher for small calls. torch.ops parses arguments against the
// schema at run time; these entries are typed, so that a lookup of a few rows costs less than
// torch's own.

#include <myemb/fuse.h>
#include <myemb/memory.h>
#include <myemb/ops.h>

#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>

namespace {

namespace py = pybind11;

// Runs f without the GIL, which backward and other threads may want, and turns c10 exceptions into
// the Python classes that torch has for them.
template <typename F>
auto call(const F& f) {
  HANDLE_TH_ERRORS
  const py::gil_scoped_release no_gil;
  return f();
  END_HANDLE_TH_ERRORS_PYBIND
}

using OptionalTensor = std::optional<at::Tensor>;
using OptionalIndex = std::optional<int64_t>;

std::optional<c10::SymInt> symbolic(const OptionalIndex& index) {
  return index ? std::optional<c10::SymInt>(*index) : std::nullopt;
}

// A Python function of positional arguments that returns a tensor. pybind11 would look for
// overloads, keywords and owners of the result first, which is a tenth of a small call.
template <auto kFunction>
struct Positional;

template <typename... Args, at::Tensor (*kFunction)(Args...)>
struct Positional<kFunction> {
  static PyObject* call(PyObject* /*module*/, PyObject* const* arguments, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    TORCH_CHECK_TYPE(count == sizeof...(Args), "expected ", sizeof...(Args),
                     " positional arguments, but got ", count);
    return THPVariable_Wrap(convert_and_call(arguments, std::index_sequence_for<Args...>()));
    END_HANDLE_TH_ERRORS
  }

 private:
  template <typename T>
  using Caster = py::detail::make_caster<T>;

  // The casters keep the tensors. Taking these references later, without the GIL, would mean to
  // wait for it: the second reference to a tensor of Python's makes it an owner of the object.
  template <size_t... I>
  static at::Tensor convert_and_call(PyObject* const* arguments, std::index_sequence<I...>) {
    std::tuple<Caster<Args>...> casters;
    const auto convert = [&]<typename T>(Caster<T>& caster, size_t i) {
      TORCH_CHECK_TYPE(caster.load(arguments[i], /*convert=*/true), "argument ", i + 1,
                       " cannot be of type ", Py_TYPE(arguments[i])->tp_name);
    };
    (convert.template operator()<Args>(std::get<I>(casters), I), ...);
    const py::gil_scoped_release no_gil;
    return kFunction(py::detail::cast_op<Args>(std::get<I>(casters))...);
  }
};

template <auto kFunction>
void define_positional(py::module_& m, const char* name) {
  static PyMethodDef definition{
      name,
      reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Positional<kFunction>::call)),
      METH_FASTCALL, nullptr};
  const auto module_name = m.attr("__name__");
  m.attr(name) =
      py::reinterpret_steal<py::object>(PyCFunction_NewEx(&definition, nullptr, module_name.ptr()));
}

at::Tensor embedding(const at::Tensor& weight, const at::Tensor& indices, int64_t padding_idx,
                     bool scale_grad_by_freq, bool sparse) {
  return myemb::embedding(weight, indices, padding_idx, scale_grad_by_freq, sparse);
}

at::Tensor embedding_bag(const at::Tensor& weight, const at::Tensor& indices,
                         const OptionalTensor& offsets, bool scale_grad_by_freq, int64_t mode,
                         bool sparse, const OptionalTensor& per_sample_weights,
                         bool include_last_offset, const OptionalIndex& padding_idx) {
  return myemb::embedding_bag(weight, indices, offsets, scale_grad_by_freq, mode, sparse,
                              per_sample_weights, include_last_offset, symbolic(padding_idx));
}

using Tensors = std::vector<at::Tensor>;
using Numbers = std::vector<int64_t>;
using OptionalNumbers = std::optional<Numbers>;

at::OptionalIntArrayRef view_of(const OptionalNumbers& numbers) {
  return numbers ? at::OptionalIntArrayRef(*numbers) : std::nullopt;
}

at::OptionalSymIntArrayRef symbolic(const OptionalNumbers& numbers) {
  if (!numbers) return std::nullopt;
  const std::optional view = c10::fromIntArrayRefSlow(*numbers);  // into them
  return view;
}

at::Tensor embedding_bag_tables(const Tensors& weights, const at::Tensor& indices,
                                const at::Tensor& offsets, const OptionalNumbers& feature_tables,
                                const OptionalNumbers& modes,
                                const OptionalTensor& per_sample_weights,
                                const OptionalNumbers& padding_idx, const Numbers& sparse_tables) {
  return myemb::embedding_bag_tables(weights, indices, offsets, view_of(feature_tables),
                                     view_of(modes), per_sample_weights, symbolic(padding_idx),
                                     sparse_tables);
}

void check_embedding_bag_tables(const Tensors& weights, const at::Tensor& indices,
                                const at::Tensor& offsets, const OptionalNumbers& feature_tables,
                                const OptionalNumbers& modes,
                                const OptionalTensor& per_sample_weights,
                                const OptionalNumbers& padding_idx, const Numbers& sparse_tables) {
  call([&] {
    myemb::check_embedding_bag_tables(weights, indices, offsets, view_of(feature_tables),
                                      view_of(modes), per_sample_weights, symbolic(padding_idx),
                                      sparse_tables);
  });
}

at::Tensor embedding_renorm_(at::Tensor weight, const at::Tensor& indices, double max_norm,
                             double norm_type) {
  return call([&] { return myemb::embedding_renorm_(weight, indices, max_norm, norm_type); });
}

void check_embedding_bag(const at::Tensor& weight, const at::Tensor& indices,
                         const OptionalTensor& offsets, int64_t mode, bool scale_grad_by_freq,
                         bool sparse, const OptionalTensor& per_sample_weights,
                         bool include_last_offset, const OptionalIndex& padding_idx) {
  call([&] {
    myemb::check_embedding_bag(weight, indices, offsets, mode, scale_grad_by_freq, sparse,
                               per_sample_weights, include_last_offset, symbolic(padding_idx));
  });
}

void set_cache_limit(int64_t bytes) {
  call([&] { myemb::set_cache_limit(bytes); });
}

// What Python holds of a fused table.
struct FusedTable {
  std::shared_ptr<myemb::FusedTable> table;
};

int64_t huge_pages_(const at::Tensor& tensor) {
  return call([&] { return myemb::huge_pages_(tensor); });
}

int64_t prefetch_rows(const at::Tensor& table, const at::Tensor& indices) {
  return call([&] { return myemb::prefetch_rows(table, indices); });
}

void flush(const at::Tensor& tensor) {
  call([&] { myemb::flush(tensor); });
}

// A Python function that C++ keeps, and may drop without the GIL.
std::shared_ptr<py::object> kept(py::object function) {
  const auto drop = [](py::object* object) {
    const py::gil_scoped_acquire gil;
    delete object;
  };
  return {new py::object(std::move(function)), drop};
}

// Made once: every step of every table looks the same names up.
template <size_t kSize>
struct Name {
  consteval Name(const char (&name)[kSize]) { std::copy_n(name, kSize, text); }
  char text[kSize];
};

template <Name kName>
PyObject* interned() {
  static PyObject* const name = PyUnicode_InternFromString(kName.text);
  return name;
}

myemb::UpdateOptions update_options(const py::dict& named) {
  myemb::UpdateOptions options;
  const auto read = [&](PyObject* name, auto& option) {
    using T = std::decay_t<decltype(option)>;
    if (PyObject* const value = PyDict_GetItemWithError(named.ptr(), name)) {
      option = py::handle(value).cast<T>();
    }
  };
  std::string rule, rounding;
  read(interned<"rule">(), rule);
  read(interned<"rounding">(), rounding);
  options.rule = myemb::update_rule(rule);
  options.rounding = myemb::rounding(rounding);
  read(interned<"lr">(), options.lr);
  read(interned<"eps">(), options.eps);
  read(interned<"weight_decay">(), options.weight_decay);
  read(interned<"shrink">(), options.shrink);
  read(interned<"maximize">(), options.maximize);
  read(interned<"momentum">(), options.momentum);
  read(interned<"dampening">(), options.dampening);
  read(interned<"nesterov">(), options.nesterov);
  read(interned<"beta1">(), options.beta1);
  read(interned<"beta2">(), options.beta2);
  read(interned<"amsgrad">(), options.amsgrad);
  read(interned<"seed">(), options.seed);
  read(interned<"step">(), options.step);
  return options;
}

// next_step(sparse) returns the state tensors and the keyword arguments of embedding_update_.
FusedTable fuse_in_backward(const at::Tensor& table, py::object next_step) {
  auto begin = [next = kept(std::move(next_step))](bool sparse) {
    const py::gil_scoped_acquire gil;
    try {
      const auto [state, named] =
          (*next)(sparse).cast<std::pair<std::vector<at::Tensor>, py::dict>>();
      return myemb::UpdateStep{state, update_options(named)};
    } catch (py::error_already_set& error) {
      error.restore();
      throw python_error();
    }
  };
  return call([&] { return FusedTable{myemb::fuse_in_backward(table, std::move(begin))}; });
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Typed entries to torch.ops.myemb for small calls, and facts of the build.";
  m.attr("version") = MYEMB_VERSION;
  m.attr("torch_version") = MYEMB_TORCH_VERSION;
  m.def("has_cuda", &myemb::has_cuda);
  m.def("cpu_capability", &myemb::cpu_capability);
  m.def("count_parallel_threads", &myemb::count_parallel_threads);
  m.def("empty_cache", &myemb::empty_cache);
  m.def("set_cache_limit", &set_cache_limit);
  m.def("cache_limit", &myemb::cache_limit);
  m.def("cached_bytes", &myemb::cached_bytes);
  m.def("huge_pages_", &huge_pages_);
  m.def("prefetch_rows", &prefetch_rows);
  m.def("flush", &flush);
  define_positional<&embedding>(m, "embedding");
  define_positional<&embedding_bag>(m, "embedding_bag");
  py::class_<FusedTable>(m, "FusedTable").def("remove", [](FusedTable& fused) {
    fused.table.reset();
  });
  m.def("fuse_in_backward", &fuse_in_backward);
  define_positional<&embedding_bag_tables>(m, "embedding_bag_tables");
  m.def("embedding_renorm_", &embedding_renorm_);
  m.def("check_embedding_bag", &check_embedding_bag);
  m.def("check_embedding_bag_tables", &check_embedding_bag_tables);
}
