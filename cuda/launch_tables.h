#pragma once

// launch.h for many tables in one call. What can be done for several tables at once is one launch:
// they have their dtype and width in common, and their addresses are parameters of the kernel.

#include <cuda/launch.h>

#include <span>

namespace myemb::cuda {

// The lookups of an embedding_bag_tables call: bag b of feature f has those of
// [offsets[f * num_bags + b], offsets[f * num_bags + b + 1]), which have been checked.
struct FeatureLookups {
  Indices indices;
  const int64_t* offsets;
  int64_t num_bags;     // of each feature
  const void* weights;  // accumulator type, one per lookup; null: 1
};

// A feature, and the table that it reads.
struct FeatureRows {
  int64_t feature;
  int64_t num_rows;
  int64_t padding_idx;  // negative: none
  const void* data;     // where there are no rows, one that may be read
  int64_t row_stride;
};

// Features in the order of their numbers, whose tables have dtype, width and column stride in
// common. Each reads a row at least.
struct FeatureGroup {
  FeatureLookups lookups;
  std::span<const FeatureRows> features;
  Dtype dtype;
  int64_t dim;
  int64_t column_stride;
};

// ---- bags

// The sums or means of the features' bags.
struct FeatureSums {
  FeatureGroup group;
  bool average;
  std::span<void* const> out;  // where the first row of each feature goes
  int64_t out_stride;
  void* partials;  // sum_partials_bytes
};
int launch_feature_sums(const FeatureSums& args, Stream stream);

struct FeatureMaxima {
  FeatureGroup group;
  std::span<void* const> out;
  int64_t out_stride;
  std::span<int64_t* const> positions;  // empty: not wanted
  int64_t positions_stride;
  void* partials;  // max_partials_bytes
};
int launch_feature_maxima(const FeatureMaxima& args, Stream stream);

// Asserts that the indices of the features are rows; data is not looked at.
int launch_feature_check(const FeatureLookups& lookups, std::span<const FeatureRows> features,
                         Stream stream);

// ---- group by row

// What is sorted along with a lookup.
enum class Payload : int8_t {
  Start,     // where its bag's gradient begins
  Bag,       // its bag among those of all features
  Position,  // its position
};

// A feature whose lookups are grouped. Its bag b has the gradient that begins at number
// (start + b * step) * unit of those of its dtype, and maxima at position_start + b *
// position_step.
struct GroupedFeature {
  FeatureRows rows;
  int64_t first_row;  // the number that row 0 of its table has among those of all; -1: left out
  Payload payload;
  bool average;
  int64_t start;
  int64_t step;
  int64_t position_start;
};

// divisors[f * num_bags + b], as BagDivisors has them, of the features given.
struct FeatureDivisors {
  FeatureLookups lookups;
  std::span<const GroupedFeature> features;
  Dtype dtype;
  bool inverse;
  void* divisors;
  int64_t* bag_starts;     // where the gradient of each bag begins; null: not wanted
  int32_t* window_counts;  // (lookups / kChunk + 1) scratch
};
int launch_feature_divisors(const FeatureDivisors& args, Stream stream);

// Sorts the lookups of all features by row, the tables' rows being numbered one after the other.
// Padding, and what is left out, comes last, as row num_rows.
struct GroupTables {
  FeatureLookups lookups;
  std::span<const GroupedFeature> features;
  Dtype dtype;  // Double, or any other: the accumulator type of weights
  int64_t num_rows;
  int64_t largest_payload;
  const void* divisors;  // of mean bags, if weights are wanted
  int64_t* starts;       // for Payload::Position: where the gradient of the bag begins
  void* weights;         // ... and weight / divisor of its bag; null: not wanted
  Op op;
  void* scratch;  // groups_bytes
};
size_t groups_bytes(const GroupTables& args);
int launch_group_tables(const GroupTables& args, Groups* groups, Stream stream);

// ---- gradients

// As BagMaxima, for features of one width in mode max.
struct FeatureBagMaxima {
  FeatureLookups lookups;
  std::span<const GroupedFeature> features;
  const int64_t* positions;
  int64_t position_step;
  int64_t dim;
  Maxima maxima;
};
int launch_feature_bag_maxima(const FeatureBagMaxima& args, Stream stream);

// A table whose rows are summed up or updated.
struct GroupedTable {
  int64_t first_row;  // as in GroupedFeature
  int64_t num_rows;
  void* out;  // (num_rows, D), contiguous
};

// As GradientSum, for tables of one dtype and width whose numbers of rows follow each other. `sum`
// is of all of them: rows are the numbers of the gradient, `unit` apart, and `out` is not used.
struct TablesGradientSum {
  GradientSum sum;
  std::span<const GroupedTable> tables;
};
int launch_tables_gradient_sum(const TablesGradientSum& args, Stream stream);

// As launch_gradient_chunks.
int launch_tables_chunks(const TablesGradientSum& args, Stream stream);

// out[i] = share * <left, right> for each lookup of the features: the row of its bag's gradient,
// and the row of its table; zero for padding. Lookups of other features are not written.
struct FeatureDots {
  FeatureGroup group;                      // its tables are `right`
  std::span<const GroupedFeature> starts;  // of the same features: where gradients begin
  Rows left;                               // the numbers of the gradient, `unit` apart
  const void* shares;                      // accumulator type, of each bag of all features; null: 1
  const int64_t* positions;                // mode max
  int64_t position_step;
  void* out;  // accumulator type
};
int launch_feature_dots(const FeatureDots& args, Stream stream);

// ---- optimizers

// As RowsUpdate. The tables of sum are those of `tables`, in order, without `out`.
struct TablesRowsUpdate {
  TablesGradientSum sum;
  std::span<const TableState> tables;
  UpdateOptions options;
};
int launch_tables_update(const TablesRowsUpdate& args, Stream stream);

}  // namespace myemb::cuda
