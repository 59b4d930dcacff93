#pragma once

// The lookups of an embedding_bag_tables call on a device.

#include <cuda/device.h>
#include <cuda/launch_tables.h>
#include <ops/tables.h>

#include <vector>

namespace myemb::cuda {

class CudaTableBags {
 public:
  // Starts a kernel that asserts that offsets start at 0, do not fall and end with the lookups.
  CudaTableBags(const DeviceCall& call, const TableLookups& arguments, const TableLayout& layout);

  FeatureLookups lookups;

  int64_t num_bags() const { return lookups.num_bags; }
  int64_t num_lookups() const { return lookups.indices.count; }

 private:
  at::Tensor indices_;
  at::Tensor offsets_;
  at::Tensor weights_;
};

// What features read, those together that one launch is for.
class FeatureGroups {
 public:
  struct Features {
    const BatchTable* table;  // one of theirs
    Rows rows;                // likewise: the dtype, width and column stride of all
    std::vector<int64_t> numbers;
    std::vector<FeatureRows> tables;

    FeatureGroup group(const CudaTableBags& bags) const {
      return {bags.lookups, tables, rows.dtype, rows.dim, rows.column_stride};
    }
  };

  FeatureGroups(const DeviceCall& call, at::TensorList weights, const TableLayout& layout);

  std::vector<Features> groups;

 private:
  // What stands for a row of a table that has none.
  const void* readable_row(const DeviceCall& call, const Rows& rows);

  std::vector<at::Tensor> readable_;
};

}  // namespace myemb::cuda
