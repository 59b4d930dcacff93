// _cudasim: switches torch.ops.myemb on CPU tensors over to the CUDA host code and kernels, run by
// the simulator, and tells what they did.

#include <cuda/ops.h>
#include <tests/cudasim/sim/cudasim.h>
#include <tests/cudasim/torch/calls.h>
#include <tests/cudasim/torch/host_calls.h>
#include <tests/cudasim/torch/memory.h>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cxxabi.h>

#include <memory>
#include <optional>

namespace myemb::simulated {
namespace {

namespace py = pybind11;

// Takes the dispatcher's remark that a kernel is registered twice, which is the purpose here.
class Silence final : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};

// While it is entered, the ops of CPU tensors run on a simulated GPU.
class Simulation {
 public:
  Simulation(int arch, uint64_t seed) : arch_(arch), seed_(seed) {}

  void enter() {
    const std::lock_guard lock(simulator_lock());
    if (kernels_) throw std::runtime_error("this simulation has been entered already");
    before_ = cudasim::settings();
    cudasim::settings().arch = arch_;
    cudasim::settings().seed = seed_;
    Silence silence;
    const c10::WarningUtils::WarningHandlerGuard guard(&silence);
    kernels_ = library(c10::DispatchKey::CPU);
    cuda::register_ops(*kernels_);
    sparse_kernels_ = library(c10::DispatchKey::SparseCPU);
    cuda::register_sparse_ops(*sparse_kernels_);
    foreign_inputs_.emplace();
  }

  void exit() {
    const std::lock_guard lock(simulator_lock());
    foreign_inputs_.reset();
    sparse_kernels_.reset();
    kernels_.reset();  // the CPU kernels are back
    cudasim::settings() = before_;
  }

 private:
  static std::unique_ptr<torch::Library> library(c10::DispatchKey key) {
    return std::make_unique<torch::Library>(torch::Library::IMPL, "myemb", key, __FILE__, __LINE__);
  }

  int arch_;
  uint64_t seed_;
  cudasim::Settings before_;
  std::unique_ptr<torch::Library> kernels_;
  std::unique_ptr<torch::Library> sparse_kernels_;
  std::optional<ForeignInputs> foreign_inputs_;
};

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
  return status == 0 ? text.get() : name;
}

py::dict site_facts(const cudasim::Site& site) {
  using py::literals::operator""_a;
  return py::dict("instruction"_a = site.instruction, "file"_a = site.file, "line"_a = site.line,
                  "write"_a = site.write, "shared"_a = site.shared, "atomic"_a = site.atomic,
                  "bytes"_a = site.bytes, "requests"_a = site.requests, "lanes"_a = site.lanes,
                  "sectors"_a = site.sectors, "ideal_sectors"_a = site.ideal_sectors,
                  "misses"_a = site.misses, "bank_conflicts"_a = site.bank_conflicts);
}

py::tuple dimensions(const unsigned (&size)[3]) {
  return py::make_tuple(size[0], size[1], size[2]);
}

py::dict launch_facts(const cudasim::Launch& launch) {
  using py::literals::operator""_a;
  py::list sites;
  for (const cudasim::Site& site : launch.sites) sites.append(site_facts(site));
  return py::dict("kernel"_a = demangled(launch.kernel), "mangled"_a = launch.kernel,
                  "grid"_a = dimensions(launch.grid), "block"_a = dimensions(launch.block),
                  "warp_instructions"_a = launch.warp_instructions,
                  "lane_instructions"_a = launch.lane_instructions, "sites"_a = sites);
}

py::dict call_facts(const Call& call) {
  using py::literals::operator""_a;
  py::list launches;
  for (const cudasim::Launch& launch : call.launches) launches.append(launch_facts(launch));
  return py::dict("op"_a = call.op, "output_bytes"_a = call.output_bytes,
                  "scratch_bytes"_a = call.scratch_bytes, "launches"_a = launches);
}

py::list all_calls() {
  py::list facts;
  for (const Call& call : calls()) facts.append(call_facts(call));
  return facts;
}

py::list all_launches() {
  py::list facts;
  for (const Call& call : calls()) {
    for (const cudasim::Launch& launch : call.launches) facts.append(launch_facts(launch));
  }
  return facts;
}

// Judges what a function asks of ATen as if it were the host code of an op.
void watch(const py::function& host_code) {
  const HostCallWatch watch("watched");
  host_code();
}

void clear() {
  cudasim::clear();
  calls().clear();
}

}  // namespace
}  // namespace myemb::simulated

PYBIND11_MODULE(_cudasim, m) {
  namespace py = pybind11;
  using myemb::simulated::Simulation;
  m.doc() = "torch.ops.myemb on a simulated GPU.";
  m.attr("architectures") = std::vector<int>{MYEMB_CUDASIM_ARCHITECTURES};

  py::class_<Simulation>(m, "enabled", "Context manager: CPU tensors take the CUDA kernels.")
      .def(py::init<int, uint64_t>(), py::arg("arch"), py::arg("seed") = 0)
      .def("__enter__", &Simulation::enter)
      .def("__exit__", [](Simulation& simulation, const py::args&) { simulation.exit(); });

  py::class_<cudasim::Settings>(m, "Settings")
      .def_readonly("arch", &cudasim::Settings::arch)
      .def_readonly("seed", &cudasim::Settings::seed)
      .def_readwrite("check", &cudasim::Settings::check)
      .def_readwrite("trace", &cudasim::Settings::trace)
      .def_readwrite("cover", &cudasim::Settings::cover)
      .def_readwrite("instruction_budget", &cudasim::Settings::instruction_budget)
      .def_readwrite("max_reports", &cudasim::Settings::max_reports);
  m.def("settings", &cudasim::settings, py::return_value_policy::reference);

  m.def("calls", &myemb::simulated::all_calls, "What each op did since clear(), as dictionaries.");
  m.def("launches", &myemb::simulated::all_launches, "The launches of all calls.");
  m.def("reports", [] { return cudasim::reports(); }, "Bugs found since clear().");
  m.def("watch", &myemb::simulated::watch, "Runs a function as if it were an op's host code.");
  m.def("clear", &myemb::simulated::clear, "Forgets calls, launches and reports.");

  m.def("kernels", &cudasim::kernels, py::arg("arch"), "Mangled names.");
  m.def("demangled", &myemb::simulated::demangled);
  m.def("covered", &cudasim::covered, py::arg("arch"), py::arg("name"));
  m.def("kernel_ptx", &cudasim::kernel_ptx, py::arg("arch"), py::arg("name"));
  m.def("replace_kernel", &cudasim::replace_kernel, py::arg("arch"), py::arg("name"),
        py::arg("entry_text"));
  m.def("restore_kernels", &cudasim::restore_kernels);

  myemb::simulated::announce_cpu_tensors();
  cudasim::settings().trace = false;  // costs memory for each launch; tests ask for it
}
