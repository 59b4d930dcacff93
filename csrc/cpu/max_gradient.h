#pragma once

// Mode max's part of group-reduce-apply.

#include <cpu/gradient.h>
#include <cpu/group.h>

namespace myemb {

// Does what run_segment_sum(sums) would do, which compares every column of every lookup with the
// position of its maximum: adds up the maxima one by one, and leaves to it only the rows that have
// more lookups than a chunk. `groups` is what sums' segments are, with positions as sources.
void sum_maxima(const GradientSource& source, const RowGroups& groups, const SegmentSum& sums);

}  // namespace myemb
