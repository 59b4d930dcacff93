#include <cpu/pages.h>
#include <cpu/tensors.h>
#include <myemb/memory.h>
#include <ops/checks.h>
#include <ops/types.h>

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace myemb {
namespace {

constexpr auto kPrefetch = "prefetch_rows";

// Ascending; rows may be there more than once.
std::vector<int64_t> sorted_rows(const at::Tensor& indices, int64_t num_rows) {
  const at::Tensor lookups = kernel_indices(indices);
  std::vector<int64_t> rows(static_cast<size_t>(lookups.numel()));
  BadIndex bad;
  visit_indices(indices_of(lookups), [&](const auto* index) {
    for (int64_t i = 0; i < lookups.numel(); ++i) {
      if (index[i] < 0 || index[i] >= num_rows) bad.note(i);
      rows[static_cast<size_t>(i)] = index[i];
    }
  });
  check_lookups(bad, indices_of(lookups), num_rows, kPrefetch);
  std::sort(rows.begin(), rows.end());
  return rows;
}

// Rows of one page, or of neighbouring ones, are one question, but none is larger than what the
// system reads ahead for one at most: it would leave the rest out.
template <typename F>
void for_each_run(const std::vector<int64_t>& rows, const Span& first_row, uintptr_t row_stride,
                  const F& f) {
  constexpr uintptr_t kMost = uintptr_t{128} << 10;
  Span run{0, 0};
  for (const int64_t row : rows) {
    const uintptr_t shift = static_cast<uintptr_t>(row) * row_stride;
    Span pages = whole_pages({first_row.begin + shift, first_row.end + shift});
    pages.begin = std::max(pages.begin, run.end);
    while (pages.begin < pages.end) {
      if (pages.begin != run.end || run.bytes() >= kMost) {
        if (run.bytes() > 0) f(run);
        run = {pages.begin, pages.begin};
      }
      run.end = std::min(pages.end, run.begin + kMost);
      pages.begin = run.end;
    }
  }
  if (run.bytes() > 0) f(run);
}

// Asks for the pages of rows; returns how many bytes they have.
int64_t ask_for(const at::Tensor& table, const std::vector<int64_t>& rows) {
  const at::Tensor row = table.select(0, 0);
  const Span first = span_of(row);
  if (row.dim() > 0 && first.bytes() > row.nbytes()) {  // another's elements lie between its own
    int64_t bytes = 0;
    for (int64_t i = 0; i < table.size(1); ++i) bytes += ask_for(table.select(1, i), rows);
    return bytes;
  }
  int64_t bytes = 0;
  const auto row_stride = static_cast<uintptr_t>(table.stride(0)) * table.element_size();
  for_each_run(rows, first, row_stride, [&](const Span& run) {
    // A hint: where the system cannot follow it, the lookup will read the page.
    madvise(run.data(), run.bytes(), MADV_WILLNEED);
    bytes += static_cast<int64_t>(run.bytes());
  });
  return bytes;
}

}  // namespace

int64_t prefetch_rows(const at::Tensor& table, const at::Tensor& indices) {
  check_has_memory(table, kPrefetch);
  check_has_memory(indices, kPrefetch);
  check_index_type(indices, "indices", 2, kPrefetch);
  TORCH_CHECK(table.dim() > 0, kPrefetch, ": expected a table of rows, but got a scalar");
  const std::vector<int64_t> rows = sorted_rows(indices, table.size(0));
  return rows.empty() || table.numel() == 0 ? 0 : ask_for(table, rows);
}

void flush(const at::Tensor& tensor) {
  check_has_memory(tensor, "flush");
  const Span pages = whole_pages(span_of(tensor));
  if (tensor.numel() == 0) return;
  TORCH_CHECK(msync(pages.data(), pages.bytes(), MS_SYNC) == 0, "flush: ", std::strerror(errno));
}

}  // namespace myemb
