#pragma once

// Group by row: which lookups touch which row of the table. Everything that accumulates into rows
// (dense and coalesced gradients, frequency counts, max_norm) starts here.

#include <cpu/kernels/kernels.h>
#include <cpu/large_blocks.h>

namespace myemb {

struct RowGroups {
  int64_t count = 0;       // distinct rows
  int64_t lookups = 0;     // all lookups but those of padding_idx
  const int64_t* rows;     // (count) ascending
  const int64_t* starts;   // (count + 1) into sources
  const int64_t* sources;  // (lookups) by row, within a row in input order
  Scratch memory;

  Segments segments() const { return {starts, count + 1, 0, count, lookups}; }
};

// The lookups to group, and what to write down for each.
struct GroupedLookups {
  const Indices& indices;
  int64_t num_rows;
  int64_t padding_idx;               // -1: none
  const int64_t* sources = nullptr;  // (indices.count), not falling; null: its position
  int64_t num_sources = 0;           // all sources are less; with no sources, not looked at
};

// A stable sort of the lookups by row. Throws c10::IndexError, in the words of `op`, for an index
// outside [0, num_rows).
RowGroups group_by_row(const GroupedLookups& lookups, const char* op);

}  // namespace myemb
