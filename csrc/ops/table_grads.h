#pragma once

#include <ops/tables.h>
#include <policies/views.h>

#include <ATen/core/Tensor.h>

#include <vector>

namespace myemb {

// The gradient of a call's output, in the dtype of each table that may want it.
class TableGrads {
 public:
  // grad_output (B, columns); positions (B, positions_columns) where a feature is in mode max.
  TableGrads(const at::Tensor& grad_output, const OptionalTensor& positions,
             const TableLayout& layout);

  // All of it as numbers for a table of this dtype: the row of a feature's bag begins at number
  // feature.column + bag * row_stride() and has dim numbers.
  Rows numbers(const BatchTable& table);

  // The rows of a feature's bags.
  Rows rows(const BatchFeature& feature, const BatchTable& table, int64_t num_bags);

  int64_t row_stride() const { return row_stride_; }

  const int64_t* positions() const {
    return positions_.defined() ? positions_.const_data_ptr<int64_t>() : nullptr;
  }
  int64_t positions_stride() const { return positions_.defined() ? positions_.size(1) : 0; }

 private:
  std::vector<at::Tensor> by_type_;  // the first as it came
  int64_t row_stride_;
  at::Tensor positions_;
};

}  // namespace myemb
