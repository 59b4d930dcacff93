#pragma once

// The tables and features of an embedding_bag_tables call, as every backend and the meta kernels
// see them.

#include <myemb/ops.h>
#include <ops/saved.h>

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <vector>

namespace myemb {

struct LookupGradient;

struct BatchTable {
  c10::SymInt num_weights;
  c10::SymInt dim;
  at::ScalarType type;
  BagMode mode;
  c10::SymInt padding_idx;  // a row; negative: none
};

struct BatchFeature {
  int64_t table;
  c10::SymInt column;            // where its columns begin in the output
  c10::SymInt positions_column;  // and, in mode max, in the positions of the maxima
};

// What schemas say of the tables beside their shapes.
struct TableOptions {
  at::OptionalIntArrayRef feature_tables = std::nullopt;  // null: feature f reads table f
  at::OptionalIntArrayRef modes = std::nullopt;           // null: sum
  at::OptionalSymIntArrayRef padding_idx = std::nullopt;  // null: none
};

// The shapes of tables where there are no tables: in backward.
struct TableShapes {
  at::SymIntArrayRef num_weights;
  at::SymIntArrayRef embedding_dims;
  at::IntArrayRef dtypes;  // at::ScalarType
};

class TableLayout {
 public:
  // Throw unless every option fits the tables.
  TableLayout(at::TensorList weights, const TableOptions& options);
  TableLayout(const TableShapes& shapes, const TableOptions& options);

  std::vector<BatchTable> tables;
  std::vector<BatchFeature> features;
  at::ScalarType type;            // of the output
  c10::SymInt columns;            // of the output
  c10::SymInt positions_columns;  // of the positions

  const BatchTable& table_of(const BatchFeature& feature) const { return tables[feature.table]; }
  bool is_max(const BatchFeature& feature) const { return table_of(feature).mode == BagMode::Max; }
  bool has_max() const { return has_max_; }  // whether any feature is in mode max
  bool is_sparse(int64_t table, at::IntArrayRef sparse_tables) const;

 private:
  void set_options(const TableOptions& options);
  void add_feature(int64_t table);

  bool has_max_ = false;
};

// The lookups of all features, one feature after the other.
struct TableLookups {
  const at::Tensor& indices;
  const at::Tensor& offsets;
  const OptionalTensor& per_sample_weights;

  // B of offsets (F * B + 1,).
  c10::SymInt num_bags(const TableLayout& layout) const;
};

// Shapes, dtypes and devices of the lookups.
void check_table_lookups(const TableLookups& lookups, const TableLayout& layout);

void check_tables(at::TensorList weights, const TableLookups& lookups, const TableLayout& layout);

// The numbers of tables in a list that an argument has. Throws unless they are tables; and those
// whose gradients are sparse must not be in mode max.
void check_table_list(at::IntArrayRef tables, const TableLayout& layout, const char* name);
void check_sparse_tables(at::IntArrayRef sparse_tables, const TableLayout& layout);

// grad_output (B, columns), and positions exactly if a feature is in mode max.
void check_tables_gradient(const at::Tensor& grad_output, const OptionalTensor& positions,
                           const TableLookups& lookups, const TableLayout& layout);

// Throws for an index that is no row of the table that its feature reads.
[[noreturn]] void refuse_index(int64_t position, int64_t index, size_t feature,
                               const TableLayout& layout);

// What embedding_bag_tables_per_sample_weights_backward takes.
void check_tables_weights_gradient(const at::Tensor& grad_output, at::TensorList weights,
                                   const OptionalTensor& positions, const TableLookups& lookups,
                                   const TableLayout& layout);

// The op's gradients in terms of those of embedding_bag, feature by feature, which can be
// differentiated again. In eager mode they read offsets, and so wait for a device.
at::Tensor decompose_tables(at::TensorList weights, const TableLookups& lookups,
                            const TableLayout& layout, at::IntArrayRef sparse_tables);
std::vector<at::Tensor> decompose_tables_backward(
    const at::Tensor& grad_output, const OptionalTensor& positions, const TableLookups& lookups,
    const TableLayout& layout, at::IntArrayRef sparse_tables, at::IntArrayRef wanted_tables);
at::Tensor decompose_tables_per_sample_weights_backward(const at::Tensor& grad_output,
                                                        at::TensorList weights,
                                                        const OptionalTensor& positions,
                                                        const TableLookups& lookups,
                                                        const TableLayout& layout);

// The gradient of a table, feature by feature. Reads offsets.
std::vector<LookupGradient> lookup_gradients_of_table(int64_t table, const at::Tensor& grad_output,
                                                      const OptionalTensor& positions,
                                                      const TableLookups& lookups,
                                                      const TableLayout& layout);

// The rows that the lookups of each of these tables name, int64, in input order. Every one of them
// is read.
std::vector<at::Tensor> rows_of_tables(at::IntArrayRef tables, const TableLookups& lookups,
                                       const TableLayout& layout);

}  // namespace myemb
