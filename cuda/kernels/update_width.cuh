#pragma once

// How many columns of a row a thread updates at once.

#include <cuda/kernels/width.h>
#include <cuda/kernels/where_max.cuh>

#include <iterator>

namespace myemb::cuda {

// Four columns, whose states are 16 bytes each, or one: odd widths, fp64, mode max. More kinds
// would be more kernels, for every rule.
template <typename T>
inline constexpr int kUpdateColumns = sizeof(T) < sizeof(double) ? 4 : 1;

// Calls f.operator()<N>().
template <typename T, typename F>
int visit_update_width(const TableState& table, const Rows& grad, const F& f) {
  constexpr int N = kUpdateColumns<T>;
  if constexpr (N > 1) {
    const auto is_wide = [](const void* states) { return is_aligned(states, kAccessBytes); };
    // Four threads for a row are the least: they should all have something to read.
    if (grad.column_stride == 1 && table.dim >= 4 * N && table.dim % N == 0 &&
        grad.row_stride % N == 0 && is_aligned(grad.data, N * sizeof(T)) &&
        is_aligned(table.weight, N * sizeof(T)) &&
        is_aligned(table.low_halves, N * sizeof(int16_t)) &&
        std::all_of(std::begin(table.states), std::end(table.states), is_wide)) {
      return f.template operator()<N>();
    }
  }
  return f.template operator()<1>();
}

// One column of rows, in mode max or not.
template <typename T>
struct AnyRow : WhereMax<T, 1> {
  template <int kRows>
  __device__ void read_batch(const typename WhereMax<T, 1>::Place* places, int64_t column,
                             Batch<T, 1, kRows>& batch) const {
    if (this->positions) {
      WhereMax<T, 1>::read_batch(places, column, batch);
      return;
    }
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      batch.words[u] = this->read(places[u].row, column);
      batch.columns[u] = 1;
    }
  }
};

// Calls f.operator()<N>(reader) with the reader of what is summed up.
template <typename T, typename F>
int visit_update_reader(const TableState& table, const GradientSum& sum, const F& f) {
  const auto one_column = [&] {
    const AnyRow<T> rows{{reader_of<T, 1>(sum.rows), sum.positions, table.dim}};
    return f.template operator()<1>(rows);
  };
  if (sum.positions) return one_column();
  return visit_update_width<T>(table, sum.rows, [&]<int N>() {
    if constexpr (N > 1) {
      return f.template operator()<N>(reader_of<T, N>(sum.rows));
    } else {
      return one_column();
    }
  });
}

}  // namespace myemb::cuda
