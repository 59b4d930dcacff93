#pragma once

// The CPU kernels: plain structs of pointers in, no torch, one table of functions per instruction
// set.
//
// Two kernels carry the library. gather-reduce (segment_sum, segment_max) reads rows, combines
// those of a segment and writes one row; the forward pass runs it over the table with bags as
// segments, the backward pass over the output's gradient with the lookups of a table row as
// segments. A plain lookup is the case without a reduction (lookup), and gradients of weights and
// norms are reductions over columns.
//
// A kernel runs over a range of segments or lookups, so that the caller shares out the work. An
// index outside the table is skipped and its position noted; the caller throws.

#include <myemb/update.h>
#include <policies/numbers.h>
#include <policies/views.h>

#include <atomic>
#include <cstdint>

namespace myemb {

// Remembers the least position of an index that is out of range; shared by the threads of one call.
class BadIndex {
 public:
  static constexpr int64_t kNone = INT64_MAX;
  MYEMB_INLINE void note(int64_t position) {
    int64_t seen = position_.load(std::memory_order_relaxed);
    while (position < seen && !position_.compare_exchange_weak(seen, position)) {
    }
  }
  MYEMB_INLINE int64_t position() const { return position_.load(); }

 private:
  std::atomic<int64_t> position_{kNone};
};

// out[out_row(s)] = sum over the lookups i of segment s of weight_i * rows[index_i], averaged on
// demand.
struct SegmentSum {
  Rows rows;
  Indices indices;
  Segments segments;
  const void* weights = nullptr;       // accumulator type, one per lookup; null: 1
  int64_t padding_idx = -1;            // lookups of this row are left out; -1: none
  bool average = false;                // divide by the number of lookups that were not left out
  const int64_t* positions = nullptr;  // mode max's gradient: lookup i adds only the columns d with
  const int64_t* lookups = nullptr;    //   positions[index_i][d] == lookups[i]; null: all columns
  const int64_t* out_rows = nullptr;   // (segments) ascending; null: segment s is row s
  int64_t zeroed_rows = 0;  // rows of out, if those of no segment get zeros; 0: they stay
  bool exact = false;       // out is of the accumulator type
  void* out;                // else dtype of rows; contiguous
  BadIndex* bad;
};

// out[s] = max over the segment, with the position of the lookup that gave it.
struct SegmentMax {
  Rows rows;
  Indices indices;
  Segments segments;
  const void* weights;
  int64_t padding_idx;
  void* out;
  int64_t* positions;  // (segments, dim); null: not wanted
  BadIndex* bad;
};

// sums[sum_rows[positions[bag][d]]][d] += weight * grad[bag][d], bag after bag.
struct MaxScatter {
  Rows grad;  // contiguous
  Segments segments;
  const int64_t* positions;  // (segments, dim); those outside of their bag add nothing
  const int64_t* sum_rows;   // (lookups) -1: adds nothing
  const void* weights;       // as in SegmentSum
  void* sums;                // accumulator type, contiguous
};

// out[out_rows[i]] = from[i], rounded.
struct RoundRows {
  const void* from;  // accumulator type
  int64_t dim;
  const int64_t* out_rows;
  void* out;
  Dtype dtype;  // of out
};

// out[i] = 0 + weight_i * rows[s] for the lookups i of segment s, or 0 for those of padding_idx: a
// sum of one term, as on every device.
struct BagExpansion {
  Rows rows;  // contiguous
  Indices indices;
  Segments segments;
  const void* weights;  // as in SegmentSum
  int64_t padding_idx;
  int64_t num_rows;  // of the table
  void* out;         // dtype of rows, contiguous
  BadIndex* bad;
};

// out[i] = rows[index_i], bytes as they are.
struct Lookup {
  const void* table;
  int64_t num_rows;
  int64_t dim;
  int64_t element_size;
  int64_t row_stride;  // in elements
  int64_t column_stride;
  Indices indices;
  void* out;
  BadIndex* bad;
};

// out[i] = scale_i * <left[left_index_i], right[index_i]>: the gradient of per_sample_weights.
struct RowDot {
  Rows left;
  Rows right;
  const int64_t* left_indices;
  Indices indices;
  const void* scales;        // accumulator type; null: 1
  int64_t padding_idx;       // such lookups get zero
  const int64_t* positions;  // as in SegmentSum, with lookup i itself
  void* out;                 // accumulator type
  BadIndex* bad;
};

// Scales the rows whose norm exceeds max_norm; they are distinct and valid.
struct RowRenorm {
  void* data;
  Dtype dtype;
  int64_t dim;
  int64_t row_stride;
  int64_t column_stride;
  const int64_t* rows;
  int64_t count;  // of rows
  double max_norm;
  double norm_type;
};

// A step of an optimizer on rows of a table. All tables are contiguous.
struct RowUpdate {
  void* weight;
  Dtype dtype;
  int64_t dim;
  void* row_state;      // accumulator type, one a row; of a row-wise rule
  void* states[3];      // accumulator type, of the shape of the table; as many as the rule has
  int16_t* low_halves;  // of Rounding::Split
  UpdateOptions options;
  const void* grads;    // contiguous; grads[i] is the gradient of row rows[i]
  bool exact;           // grads are of the accumulator type, else of the table's
  const int64_t* rows;  // distinct and valid; null: row i
  int64_t rows_end;     // so many of them may be asked for ahead
};

struct Kernels {
  void (*segment_sum)(const SegmentSum&, int64_t begin, int64_t end);
  // Zeros the rows [begin, end) of out but for those of segments, of which `segment` is the first
  // one there.
  void (*zero_gaps)(const SegmentSum&, int64_t begin, int64_t end, int64_t segment);
  // The sum of chunk `chunk` of segment `segment` into a row of accumulators; returns how many
  // lookups it added. For a segment that several threads share.
  int64_t (*segment_sum_chunk)(const SegmentSum&, int64_t segment, int64_t chunk, void* partial);
  // Adds up the chunks' rows left to right and stores the segment's row.
  void (*segment_sum_combine)(const SegmentSum&, int64_t segment, const void* partials,
                              int64_t chunks, int64_t counted);
  void (*segment_max)(const SegmentMax&, int64_t begin, int64_t end);
  // The maxima of the lookups [begin, end), fewer than 2^31, of a segment that several threads
  // share: dim accumulators and dim positions. If `starts`, the first lookup that is not left out
  // is the segment's first; else they begin with -inf at position -1.
  void (*segment_max_part)(const SegmentMax&, int64_t begin, int64_t end, bool starts, void* best,
                           int64_t* positions);
  // Joins the parts, left to right, of which `first` starts the segment, and stores its row.
  void (*segment_max_combine)(const SegmentMax&, int64_t segment, const void* best,
                              const int64_t* positions, int64_t first, int64_t parts);
  void (*max_scatter)(const MaxScatter&, int64_t first_column, int64_t last_column);
  void (*round_rows)(const RoundRows&, int64_t begin, int64_t end);
  void (*expand_bags)(const BagExpansion&, int64_t begin, int64_t end);
  void (*lookup)(const Lookup&, int64_t begin, int64_t end);
  void (*row_dot)(const RowDot&, int64_t begin, int64_t end);
  void (*row_renorm)(const RowRenorm&, int64_t begin, int64_t end);
  void (*row_update)(const RowUpdate&, int64_t begin, int64_t end);
  // The rows of segments, by their sums; grads and exact of the update do not count, nor does where
  // the sums go.
  void (*segment_update)(const SegmentSum&, const RowUpdate&, int64_t begin, int64_t end);
};

// The table for the instruction set that at::get_cpu_capability() names; chosen once per process.
const Kernels& kernels();

#define MYEMB_DECLARE_KERNELS(isa)                                                           \
  namespace isa {                                                                            \
  void segment_sum(const SegmentSum&, int64_t, int64_t);                                     \
  void zero_gaps(const SegmentSum&, int64_t, int64_t, int64_t);                              \
  int64_t segment_sum_chunk(const SegmentSum&, int64_t, int64_t, void*);                     \
  void segment_sum_combine(const SegmentSum&, int64_t, const void*, int64_t, int64_t);       \
  void segment_max(const SegmentMax&, int64_t, int64_t);                                     \
  void segment_max_part(const SegmentMax&, int64_t, int64_t, bool, void*, int64_t*);         \
  void segment_max_combine(const SegmentMax&, int64_t, const void*, const int64_t*, int64_t, \
                           int64_t);                                                         \
  void max_scatter(const MaxScatter&, int64_t, int64_t);                                     \
  void round_rows(const RoundRows&, int64_t, int64_t);                                       \
  void expand_bags(const BagExpansion&, int64_t, int64_t);                                   \
  void lookup(const Lookup&, int64_t, int64_t);                                              \
  void row_dot(const RowDot&, int64_t, int64_t);                                             \
  void row_renorm(const RowRenorm&, int64_t, int64_t);                                       \
  void row_update(const RowUpdate&, int64_t, int64_t);                                       \
  void segment_update(const SegmentSum&, const RowUpdate&, int64_t, int64_t);                \
  }

MYEMB_DECLARE_KERNELS(baseline)
MYEMB_DECLARE_KERNELS(avx2)
MYEMB_DECLARE_KERNELS(avx512)
#undef MYEMB_DECLARE_KERNELS

}  // namespace myemb
