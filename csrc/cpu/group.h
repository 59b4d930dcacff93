#pragma once

// Group by row: which lookups touch which row of the table. Everything that accumulates into rows
// (dense and coalesced gradients, frequency counts, max_norm) starts here.

#include <cpu/kernels/kernels.h>

#include <memory>

namespace myemb {

struct RowGroups {
  int64_t count = 0;                     // distinct rows
  int64_t lookups = 0;                   // all lookups but those of padding_idx
  std::unique_ptr<int64_t[]> rows;       // (count) ascending
  std::unique_ptr<int64_t[]> starts;     // (count + 1) into positions
  std::unique_ptr<int64_t[]> positions;  // (lookups) by row, within a row in input order

  Segments segments() const { return {starts.get(), count + 1, 0, count, lookups}; }
};

// A stable radix sort of the lookups on as many bits as num_rows has. Throws c10::IndexError, in
// the words of `op`, for an index outside [0, num_rows).
RowGroups group_by_row(const Indices& indices, int64_t num_rows, int64_t padding_idx,
                       const char* op);

}  // namespace myemb
