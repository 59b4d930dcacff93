#pragma once

// The lookups of an embedding_bag_tables call by the row that they touch: what dense gradients and
// updates of many tables start from.

#include <cuda/tables.h>
#include <ops/table_grads.h>

namespace myemb::cuda {

// Where the gradients of features' bags begin, in as many numbers as divide all of that.
struct GradientPlaces {
  static constexpr int64_t kLargestUnit = 8;  // values that a thread reads at once

  int64_t unit;
  int64_t step;                 // from bag to bag
  std::vector<int64_t> starts;  // of each feature

  GradientPlaces(const TableLayout& layout, at::IntArrayRef features, int64_t row_stride);
};

// What mean bags divide by, FeatureDivisors, in memory of its own.
at::Tensor mean_divisors(const DeviceCall& call, const CudaTableBags& bags,
                         const std::vector<GroupedFeature>& features, Dtype dtype, bool inverse,
                         int64_t* bag_starts);

class GroupedTables {
 public:
  // Groups the lookups of these tables, no table twice.
  GroupedTables(const DeviceCall& call, const TableLayout& layout, const CudaTableBags& bags,
                TableGrads& grads, at::IntArrayRef tables, Op op);
  GroupedTables(const GroupedTables&) = delete;
  GroupedTables& operator=(const GroupedTables&) = delete;

  // Tables that have dtype, width and mode in common, and lookups. Where their sums go is left
  // open.
  struct Group {
    const BatchTable* table;        // one of them
    std::vector<size_t> places;     // of each in `tables`
    std::vector<int64_t> features;  // of all of them
    std::vector<GroupedTable> tables;
    GradientSum sum;

    TablesGradientSum sums() const { return {sum, tables}; }
  };

  std::vector<Group> groups;

  // The partial rows of the sums of a group.
  at::Tensor partials(const Group& group) const;

 private:
  void add_to_group(int64_t table, size_t place);
  void number_rows(Group& group, at::IntArrayRef tables, std::vector<GroupedFeature>& features);
  void count_means(const std::vector<GroupedFeature>& features);
  void sort(const std::vector<GroupedFeature>& features, Op op);
  void mark_maxima(const std::vector<GroupedFeature>& features);
  void set_sum(Group& group) const;
  Payload payload_of(const Group& group) const;
  bool is_weighted() const { return bags_.lookups.weights != nullptr; }

  const DeviceCall& call_;
  const TableLayout& layout_;
  const CudaTableBags& bags_;
  TableGrads& grads_;
  int64_t num_rows_ = 0;  // of all tables that are grouped
  int64_t largest_payload_;
  at::Tensor memory_;
  at::Tensor starts_, weights_, marks_;       // of lookups
  at::Tensor bag_starts_, floats_, doubles_;  // of bags
  Maxima maxima_{};
  Groups sorted_{};
};

}  // namespace myemb::cuda
