#pragma once

// The lookups of an embedding_bag_tables call on the CPU.

#include <cpu/kernels/kernels.h>
#include <ops/tables.h>

namespace myemb {

class TableBags {
 public:
  // Throws, too, unless offsets start at 0, do not fall and end with the lookups.
  TableBags(const TableLookups& lookups, const TableLayout& layout);

  int64_t num_bags;    // of each feature
  at::Tensor weights;  // per_sample_weights in the accumulator type; undefined for none

  const void* weights_data() const {
    return weights.defined() ? weights.const_data_ptr() : nullptr;
  }

  int64_t num_lookups() const { return all_.count; }
  int64_t num_lookups(size_t feature) const {
    return first_lookup(feature + 1) - first_lookup(feature);
  }
  Indices all_indices() const { return all_; }
  int64_t first_lookup(size_t feature) const { return starts_[feature * num_bags]; }

  // The bags of a feature; their lookups are counted from the first of the call.
  Segments segments(size_t feature) const;

  // The lookups of a feature and all before it, so that nobody looks ahead into another table's.
  Indices indices(size_t feature) const;

  // Throws if an index was noted that is no row of the table that its feature reads.
  void check(const BadIndex& bad, const TableLayout& layout) const;

 private:
  at::Tensor indices_;
  at::Tensor offsets_;
  Indices all_;
  const int64_t* starts_;
};

}  // namespace myemb
