#include <cpu/tensors.h>

#include <c10/util/Exception.h>

#include <cstring>

namespace myemb {

void check_lookups(const BadIndex& bad, const Indices& indices, int64_t num_rows, const char* op) {
  const int64_t position = bad.position();
  if (position == BadIndex::kNone) return;
  const int64_t index =
      visit_indices(indices, [&](const auto* data) -> int64_t { return data[position]; });
  if (std::strncmp(op, "embedding_bag", 13) == 0) {
    TORCH_CHECK(false, "Index ", position, " of input takes value ", index,
                " which is not in the valid range [0, ", num_rows, ") of ", op);
  }
  TORCH_CHECK_INDEX(false, "index out of range in self: index ", index, " at position ", position,
                    " is not in [0, ", num_rows, ")");
}

}  // namespace myemb
