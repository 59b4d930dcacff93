#pragma once

// The numbers contract, where it is a constant: both devices reduce in this order, so that a call
// gives the same bits on either, for every thread count and instruction set. docs/numbers.md says
// why.

#include <cstdint>

namespace myemb {

// Lookups of one output row are added left to right in chunks of this many, and the chunks left to
// right. A chunk is also the unit by which a long bag or a hot row is shared among threads.
inline constexpr int64_t kChunk = 256;

// A reduction over columns (dot product, norm) runs in this many lanes, column d in lane d %
// kLanes, each lane left to right; lanes j and j + step are then added for step = kLanes / 2, ...,
// 2, 1.
inline constexpr int kLanes = 32;

// Added to a norm before dividing by it, as aten::embedding_renorm_ does.
inline constexpr double kRenormEpsilon = 1e-7;

}  // namespace myemb
