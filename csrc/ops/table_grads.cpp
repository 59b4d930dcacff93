#include <ops/table_grads.h>

#include <ops/views.h>

#include <algorithm>

namespace myemb {

TableGrads::TableGrads(const at::Tensor& grad_output, const OptionalTensor& positions,
                       const TableLayout& layout) {
  const bool one_type =
      std::all_of(layout.features.begin(), layout.features.end(), [&](const BatchFeature& feature) {
        return layout.table_of(feature).type == grad_output.scalar_type();
      });
  const bool as_it_is = one_type && grad_output.stride(1) == 1;
  by_type_.push_back(as_it_is ? grad_output : grad_output.contiguous());
  row_stride_ = by_type_[0].stride(0);
  if (positions) positions_ = positions->contiguous();
}

Rows TableGrads::numbers(const BatchTable& table) {
  auto found = std::find_if(by_type_.begin(), by_type_.end(), [&](const at::Tensor& grad) {
    return grad.scalar_type() == table.type;
  });
  if (found == by_type_.end()) {
    by_type_.push_back(by_type_[0].to(table.type));
    found = by_type_.end() - 1;
  }
  const at::Tensor& grad = *found;
  const bool is_empty = grad.numel() == 0;
  const int64_t count = is_empty ? 0 : (grad.size(0) - 1) * row_stride_ + grad.size(1);
  return {grad.const_data_ptr(), dtype_of(grad), count, table.dim.expect_int(), 1, 1};
}

Rows TableGrads::rows(const BatchFeature& feature, const BatchTable& table, int64_t num_bags) {
  Rows rows = numbers(table);
  rows.data =
      static_cast<const char*>(rows.data) + feature.column.expect_int() * size_of(rows.dtype);
  rows.count = num_bags;
  rows.row_stride = row_stride_;
  return rows;
}

}  // namespace myemb
