#include <cpu/kernels/kernels.h>

#include <myemb/ops.h>

#include <ATen/Version.h>

namespace myemb {
namespace {

#define MYEMB_KERNELS(isa)                                                                        \
  Kernels {                                                                                       \
    .segment_sum = isa::segment_sum, .zero_gaps = isa::zero_gaps,                                 \
    .segment_sum_chunk = isa::segment_sum_chunk, .segment_sum_combine = isa::segment_sum_combine, \
    .segment_max = isa::segment_max, .segment_max_part = isa::segment_max_part,                   \
    .segment_max_combine = isa::segment_max_combine, .max_scatter = isa::max_scatter,             \
    .round_rows = isa::round_rows, .expand_bags = isa::expand_bags, .lookup = isa::lookup,        \
    .row_dot = isa::row_dot, .row_renorm = isa::row_renorm, .row_update = isa::row_update,        \
    .segment_update = isa::segment_update,                                                        \
  }

Kernels choose_kernels() {
#ifdef MYEMB_X86_KERNELS
  const std::string capability = cpu_capability();
  if (capability == "AVX512") return MYEMB_KERNELS(avx512);
  if (capability == "AVX2") return MYEMB_KERNELS(avx2);
#endif
  return MYEMB_KERNELS(baseline);
}

}  // namespace

#undef MYEMB_KERNELS

const Kernels& kernels() {
  static const Kernels chosen = choose_kernels();
  return chosen;
}

std::string cpu_capability() {
  return at::get_cpu_capability();  // reads ATEN_CPU_CAPABILITY
}

}  // namespace myemb
