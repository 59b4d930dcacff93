#pragma once

// Group by row: which lookups touch which row of the table. Everything that accumulates into rows
// (dense and coalesced gradients, frequency counts, max_norm) starts here.

#include <cpu/kernels/kernels.h>
#include <cpu/large_blocks.h>
#include <cpu/parallel.h>

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

// to[i] = from[groups.sources[i]] for each lookup i, in the order of the groups.
template <typename V>
void in_group_order(const RowGroups& groups, const V* from, V* to) {
  parallel_ranges(groups.lookups, groups.lookups, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = from[groups.sources[i]];
  });
}

// The lookups to group, and what to write down for each.
struct GroupedLookups {
  const Indices& indices;
  int64_t num_rows;
  int64_t padding_idx;               // -1: none
  const int64_t* sources = nullptr;  // (indices.count); null: its position + first_source
  int64_t num_sources = 0;           // all sources are less; with no sources, not looked at
  int64_t first_source = 0;
};

// A stable sort of the lookups by row. Throws c10::IndexError, in the words of `op`, for an index
// outside [0, num_rows).
RowGroups group_by_row(const GroupedLookups& lookups, const char* op);

}  // namespace myemb
