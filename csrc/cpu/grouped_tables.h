#pragma once

// The lookups of an embedding_bag_tables call by the row they touch, table by table: what dense
// gradients and updates of many tables start from.

#include <cpu/group.h>
#include <cpu/kernels/kernels.h>
#include <cpu/large_blocks.h>
#include <cpu/tables.h>
#include <ops/table_grads.h>

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace myemb {

// What backward has to know of each lookup of a call, in arrays over all of them.
class TableSources {
 public:
  TableSources(const TableLayout& layout, const TableBags& bags, const TableGrads& grads);

  // Writes down a feature's part; starts only if wanted. False, and nothing but a note in `bad`, if
  // an index is no row. Features may be filled at the same time.
  bool fill(size_t feature, bool want_starts, BadIndex& bad) const;

  const int64_t* starts() const { return starts_; }  // of its bag's row in the gradient
  const int64_t* position_starts() const { return position_starts_; }  // and in the positions
  // Of the lookups of a feature, and of the others of its table; accumulator type, null: 1.
  const void* weights(const BatchFeature& feature) const;

 private:
  const TableLayout& layout_;
  const TableBags& bags_;
  const int64_t row_stride_;
  const int64_t positions_stride_;
  Scratch memory_;
  int64_t* starts_;
  int64_t* position_starts_ = nullptr;
  float* floats_ = nullptr;
  double* doubles_ = nullptr;
};

// The lookups of one table by row, and what has to be summed up for each row: `sums` without a
// place for the results.
struct GroupedTable {
  RowGroups groups;
  SegmentSum sums;
  std::vector<MaxScatter> maxima;  // in mode max: the same sums, bag by bag, for sum_maxima
  Scratch memory;
};

class GroupedTables {
 public:
  // Groups the lookups of the tables `grouped`, and only fills the sources of those of `filled`.
  // Throws for a bad index of any of them.
  GroupedTables(const TableLayout& layout, const TableBags& bags, TableGrads& grads,
                at::IntArrayRef grouped, at::IntArrayRef filled);

  const GroupedTable& operator[](size_t i) const { return *tables_[i]; }  // of grouped[i]
  const TableSources& sources() const { return sources_; }

 private:
  // What is to be done for one table.
  struct Task {
    int64_t table;
    std::vector<size_t> features;
    int64_t lookups;
    Rows numbers;                         // of the gradient
    std::vector<Rows> rows;               // of the features
    std::optional<GroupedTable>* result;  // null: only sources
  };

  std::vector<Task> tasks(TableGrads& grads, at::IntArrayRef grouped, at::IntArrayRef filled);
  void run(const std::vector<Task>& tasks, BadIndex& bad);
  void run(const Task& task, BadIndex& bad);
  bool is_by_start(const Task& task) const;
  RowGroups group(const Task& task) const;
  GroupedTable grouped(const Task& task);
  std::vector<MaxScatter> maxima(const Task& task) const;

  const TableLayout& layout_;
  const TableBags& bags_;
  const int64_t* const positions_;
  const int64_t positions_stride_;
  TableSources sources_;
  std::vector<std::optional<GroupedTable>> tables_;
  BadIndex no_bad_index_;
};

}  // namespace myemb
