#pragma once

// Mode max's part of group-reduce-apply.

#include <cpu/group.h>
#include <cpu/kernels/kernels.h>

#include <vector>

namespace myemb {

// Does what run_segment_sum(sums) would do, which compares every column of every lookup with the
// position of its maximum: adds up the maxima one by one, and leaves to it only the rows that have
// more lookups than a chunk. `groups` is what sums' segments are, with positions as sources, all of
// them less than num_positions. `bags` are those of all these lookups, in input order; where their
// sums go is not looked at.
void sum_maxima(std::vector<MaxScatter> bags, int64_t num_positions, const RowGroups& groups,
                const SegmentSum& sums);

}  // namespace myemb
