#pragma once

// The seam between tensors and device code: plain pointers and sizes, no ATen on one side and no
// CUDA headers on the other, so that a .cu file compiles in seconds.
//
// Every launcher starts work on `stream` and returns a cudaError_t. It allocates nothing, waits for
// nothing and reads no device memory on the host, so it can be captured in a CUDA graph. An index
// or an offset out of range stops the kernel with a device-side assertion that names the op.
// Kernels use no atomics: what they compute does not depend on the order in which threads run.

#include <myemb/update.h>
#include <policies/numbers.h>
#include <policies/views.h>

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace myemb::cuda {

using Stream = CUstream_st*;

// The op in whose name an assertion fails, where a kernel serves several.
enum class Op : int8_t {
  EmbeddingDenseBackward,
  EmbeddingRenorm,
  EmbeddingBagDenseBackward,
  EmbeddingBagSparseBackward,
  EmbeddingBagPerSampleWeightsBackward,
  EmbeddingUpdate,
  EmbeddingBagTablesBackward,
  EmbeddingBagTablesPerSampleWeightsBackward,
  EmbeddingBagTablesUpdate,
  Coalesce,
};

// ---- embedding

// out[i] = rows[indices[i]], as bytes. Columns are column_stride elements apart.
struct Lookup {
  const void* rows;
  int64_t num_rows;
  int64_t dim;
  int64_t element_size;   // 1, 2, 4, 8 or 16
  int64_t row_stride;     // in elements
  int64_t column_stride;  // in elements
  Indices indices;
  void* out;  // contiguous
};
int launch_lookup(const Lookup& args, Stream stream);

// ---- bags

// A segment of more than kChunk lookups is cut into chunks that are reduced one by one into rows of
// this scratch memory and then joined in order.
size_t sum_partials_bytes(int64_t num_lookups, int64_t dim, Dtype dtype);
size_t max_partials_bytes(int64_t num_lookups, int64_t dim, Dtype dtype);

// The lookups of an embedding_bag call.
struct BagLookups {
  Indices indices;
  Segments bags;
  int64_t num_rows;
  int64_t padding_idx;  // lookups of this row are left out; -1: none
  const void* weights;  // accumulator type, one per lookup; null: 1
};

// The num_lookups that partial rows are for: none if no bag can be long.
inline int64_t lookups_in_chunks(const BagLookups& lookups) {
  const bool all_short = !lookups.bags.starts && lookups.bags.length <= kChunk;
  return all_short ? 0 : lookups.indices.count;
}

// out[b] = sum over the lookups i of bag b of weight_i * rows[index_i], divided by the number of
// lookups that were not left out if average.
struct BagSum {
  Rows rows;
  BagLookups lookups;
  bool average;
  void* out;       // (B, D) dtype of rows, contiguous
  void* partials;  // sum_partials_bytes
};
int launch_bag_sum(const BagSum& args, Stream stream);

// out[b] = max over the lookups of bag b, with the position of the lookup that gave it.
struct BagMax {
  Rows rows;
  BagLookups lookups;
  void* out;
  int64_t* positions;  // (B, D), -1 in an empty bag; null: not wanted
  void* partials;      // max_partials_bytes
};
int launch_bag_max(const BagMax& args, Stream stream);

// Asserts that each of the `batches` rows of `count` offsets describes bags of num_lookups lookups.
struct OffsetsCheck {
  const int64_t* offsets;
  int64_t batches;
  int64_t count;
  int64_t num_lookups;
  bool include_last_offset;
};
int launch_offsets_check(const OffsetsCheck& args, Stream stream);

// divisors[b] = the number of lookups of bag b that are not padding, at least 1; its reciprocal if
// inverse. Accumulator type of dtype.
struct BagDivisors {
  BagLookups lookups;
  Dtype dtype;
  bool inverse;
  void* divisors;
  int32_t* window_counts;  // (num_lookups / kChunk + 1) scratch; used only with padding
};
int launch_bag_divisors(const BagDivisors& args, Stream stream);

// For each lookup i: bag_of[i] = its bag, or -1 if it is padding; weight_of[i] = weight_i / divisor
// of its bag.
struct LookupSources {
  BagLookups lookups;
  Dtype dtype;
  const void* divisors;  // null: 1
  int64_t* bag_of;
  void* weight_of;  // accumulator type; null: not wanted
  Op op;
};
int launch_lookup_sources(const LookupSources& args, Stream stream);

// ---- group by row

// The lookups sorted by table row, within a row in input order. Padding comes last, as row
// num_rows.
struct Groups {
  const void* rows;      // (count) uint32, or uint64 if wide
  const void* payloads;  // (count) int32, or int64 if wide: what each lookup stands for
  bool wide;
  int64_t count;
  int64_t num_rows;
};

// Sorts on as many bits as num_rows has. The payload of a lookup is its position, or its bag if
// `bags` is given.
struct GroupByRow {
  Indices indices;
  int64_t num_rows;
  int64_t padding_idx;
  const Segments* bags;
  void* scratch;  // groups_bytes
  Op op;
};
size_t groups_bytes(const GroupByRow& args);
int launch_group_by_row(const GroupByRow& args, Groups* groups, Stream stream);

// The distinct rows of lookups, ascending, and how many they are; for each sorted lookup the place
// of its row among them.
struct NumberRows {
  Groups groups;      // of at least one lookup, without padding
  void* ranks;        // (count), of the type of groups.rows
  int64_t* rows;      // (count), of which the first *distinct are written
  int64_t* distinct;  // (1)
  void* scratch;      // number_rows_bytes
};
size_t number_rows_bytes(const Groups& groups);
int launch_number_rows(const NumberRows& args, Stream stream);

// weights[p] = (weights_in[p], or 1) / how often the row of lookup p occurs; payloads are
// positions.
struct FrequencyWeights {
  Groups groups;
  Dtype dtype;
  const void* weights_in;  // may be weights; null: 1
  void* weights;
};
int launch_frequency_weights(const FrequencyWeights& args, Stream stream);

// ---- gradients

// Mode max: bit d % 32 of word d / 32 of a lookup says whether it gave the maximum of column d of
// its bag.
struct Maxima {
  static constexpr int64_t kWordBits = 32;

  uint32_t* words;  // (lookups, stride); null: all columns of all lookups count
  int64_t stride;   // of the widest rows

  static int64_t words_for(int64_t dim) { return (dim + kWordBits - 1) / kWordBits; }
};

// Sets the bits of bags by the position of each maximum; a position outside of its bag is none's.
struct BagMaxima {
  Segments bags;
  const int64_t* positions;  // (B, dim)
  int64_t dim;
  Maxima maxima;  // all zero
};
int launch_bag_maxima(const BagMaxima& args, Stream stream);

// out[row] = sum over the lookups of the row of weight * rows[source], divided by their number if
// average. Rows of `out` without lookups are not written.
struct GradientSum {
  Rows rows;  // the gradient of the output
  Groups groups;
  const int64_t* bag_of;  // payloads are positions: source = bag_of[position]; null: the payload
  const void* weights;    // accumulator type; null: 1
  bool weights_by_row;    // of the source row, else of the payload
  Maxima maxima;          // mode max: the columns that a lookup adds; payloads are positions
  bool average;
  void* out;       // (num_rows, D), contiguous
  void* partials;  // sum_partials_bytes
};
int launch_gradient_sum(const GradientSum& args, Stream stream);

// The chunks of long runs alone, into the partial rows; `out` is not looked at.
int launch_gradient_chunks(const GradientSum& args, Stream stream);

// out[i] = weight_i * rows[source_i], zero where source_i is -1.
struct WeightedRows {
  Rows rows;
  const int64_t* sources;
  const void* weights;  // accumulator type; null: 1
  int64_t count;
  void* out;  // (count, D), contiguous
};
int launch_weighted_rows(const WeightedRows& args, Stream stream);

// out[i] = scale_i * <left[left_of_i], right[index_i]>, zero where left_of_i is -1.
struct RowDot {
  Rows left;
  Rows right;
  const int64_t* left_of;
  Indices indices;
  const void* scales;  // accumulator type; null: 1
  const int64_t*
      positions;  // mode max: lookup i has the columns d with positions[left_of_i][d] == i
  void* out;      // accumulator type
};
int launch_row_dot(const RowDot& args, Stream stream);

// ---- renorm

// Scales each row of groups whose p-norm exceeds max_norm.
struct RowRenorm {
  void* data;
  Dtype dtype;
  int64_t dim;
  int64_t row_stride;
  int64_t column_stride;
  Groups groups;
  double max_norm;
  double norm_type;
};
int launch_row_renorm(const RowRenorm& args, Stream stream);

// ---- optimizers

// What a step changes: weights and states of (num_rows, dim), contiguous, the states in the
// accumulator type; null where the rule has none (see embedding_update_ in myemb/ops.h).
struct TableState {
  void* weight;
  Dtype dtype;
  int64_t num_rows;
  int64_t dim;
  void* row_state;  // (num_rows)
  void* states[3];
  int16_t* low_halves;
};

// A step on the table by a gradient of its own shape and dtype.
struct DenseUpdate {
  TableState table;
  Rows grad;
  UpdateOptions options;
};
int launch_dense_update(const DenseUpdate& args, Stream stream);

// A step on the rows that have lookups, by what `sum` says; `sum.out` is not looked at. Rows
// without lookups stay as they are.
struct RowsUpdate {
  TableState table;
  GradientSum sum;
  UpdateOptions options;
};
int launch_rows_update(const RowsUpdate& args, Stream stream);

// ---- memory

int launch_zero(void* data, size_t bytes, Stream stream);

}  // namespace myemb::cuda
