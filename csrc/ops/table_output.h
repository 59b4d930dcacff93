#pragma once

// The output of an embedding_bag_tables call, of which each feature has some columns.

#include <ops/tables.h>

#include <ATen/core/Tensor.h>

#include <functional>
#include <utility>
#include <vector>

namespace myemb {

class TableOutput {
 public:
  // `out` is (B, columns of the layout); new_part makes what is (B, D) of another dtype.
  using NewPart = std::function<at::Tensor(at::IntArrayRef shape, at::ScalarType type)>;
  TableOutput(at::Tensor out, NewPart new_part)
      : out_(std::move(out)), new_part_(std::move(new_part)) {}

  struct Columns {
    void* data;      // of the first row
    int64_t stride;  // elements from one row to the next
  };

  // Where a feature's rows go. Those of another dtype than the output's are rounded to their own
  // first, as if they were outputs that are joined.
  Columns columns(const BatchFeature& feature, const BatchTable& table) {
    const int64_t column = feature.column.expect_int(), dim = table.dim.expect_int();
    if (table.type == out_.scalar_type()) {
      auto* const data = static_cast<char*>(out_.mutable_data_ptr());
      return {data + column * out_.element_size(), out_.size(1)};
    }
    const at::Tensor part = new_part_({out_.size(0), dim}, table.type);
    converted_.push_back({column, part});
    return {part.mutable_data_ptr(), dim};
  }

  // When all columns are there.
  at::Tensor joined() {
    for (const auto& [column, part] : converted_) {
      out_.narrow(1, column, part.size(1)).copy_(part);
    }
    return out_;
  }

 private:
  struct Converted {
    int64_t column;
    at::Tensor part;
  };

  const at::Tensor out_;
  const NewPart new_part_;
  std::vector<Converted> converted_;
};

}  // namespace myemb
