#include <cpu/pages.h>

#include <c10/util/Exception.h>
#include <unistd.h>

namespace myemb {

void check_has_memory(const at::Tensor& tensor, const char* op) {
  TORCH_CHECK(tensor.layout() == at::kStrided && tensor.device().is_cpu(), op,
              ": expected a dense CPU tensor, but got one of layout ", tensor.layout(), " on ",
              tensor.device());
}

Span span_of(const at::Tensor& tensor) {
  const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  if (tensor.numel() == 0) return {begin, begin};
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return {begin, begin + static_cast<size_t>(last + 1) * tensor.element_size()};
}

Span whole_pages(const Span& span) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return {span.begin / page * page, (span.end + page - 1) / page * page};
}

}  // namespace myemb
