#include <cpu/large_blocks.h>
#include <cpu/pages.h>
#include <myemb/memory.h>

#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace myemb {
namespace {

constexpr int kCollapse = 25;  // MADV_COLLAPSE, which C libraries older than Linux 6.1 do not know

const char* reason(int error) {
  switch (error) {
    case EINVAL:
      return "the system does not collapse pages of this memory: it needs Linux 6.1, transparent "
             "huge pages and memory that is not a mapped file";
    case ENOMEM:
      return "there are not enough free huge pages";
    default:
      return std::strerror(error);
  }
}

}  // namespace

int64_t huge_pages_(const at::Tensor& tensor) {
  check_has_memory(tensor, "huge_pages_");
  const auto data = reinterpret_cast<uintptr_t>(tensor.storage().data());
  const uintptr_t begin = up_to_huge_page(data);
  const uintptr_t end = (data + tensor.storage().nbytes()) / kHugePage * kHugePage;
  // Part by part: what was moved stays so if the system runs out of huge pages.
  constexpr uintptr_t kPart = 32 * kHugePage;
  int64_t moved = 0;
  int error = 0;
  for (uintptr_t at = begin; at < end; at += kPart) {
    auto* const part = reinterpret_cast<void*>(at);
    const size_t bytes = std::min(kPart, end - at);
    madvise(part, bytes, MADV_HUGEPAGE);  // stays so when pages are swapped out
    if (madvise(part, bytes, kCollapse) == 0) {
      moved += static_cast<int64_t>(bytes);
    } else {
      error = errno;
    }
  }
  TORCH_CHECK(moved > 0 || error == 0, "huge_pages_: ", reason(error));
  return moved;
}

}  // namespace myemb
