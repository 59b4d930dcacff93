#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <optional>

namespace myemb {

// The row that a padding_idx option names; a negative one counts from the end. Zero is let through
// for a table without rows, as in torch.
inline std::optional<int64_t> wrap_padding_idx(std::optional<int64_t> padding_idx,
                                               int64_t num_embeddings) {
  if (!padding_idx || *padding_idx == 0) return padding_idx;
  TORCH_CHECK_VALUE(*padding_idx >= -num_embeddings && *padding_idx < num_embeddings,
                    "Padding_idx must be within num_embeddings: ", *padding_idx, " is not in [",
                    -num_embeddings, ", ", num_embeddings, ")");
  return *padding_idx < 0 ? *padding_idx + num_embeddings : *padding_idx;
}

}  // namespace myemb
