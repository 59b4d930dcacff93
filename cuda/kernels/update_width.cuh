#pragma once

// How many columns of a row a thread updates at once.

#include <cuda/kernels/width.h>
#include <cuda/kernels/table_runs.cuh>
#include <cuda/kernels/where_max.cuh>

#include <iterator>

namespace myemb::cuda {

// Four columns, whose states are 16 bytes each, or one: odd widths, fp64, mode max. More kinds
// would be more kernels, for every rule.
template <typename T>
inline constexpr int kUpdateColumns = sizeof(T) < sizeof(double) ? 4 : 1;

template <typename T>
bool is_wide(const TableState& table) {
  constexpr int N = kUpdateColumns<T>;
  const auto is_wide = [](const void* states) { return is_aligned(states, kAccessBytes); };
  return is_aligned(table.weight, N * sizeof(T)) &&
         is_aligned(table.low_halves, N * sizeof(int16_t)) &&
         std::all_of(std::begin(table.states), std::end(table.states), is_wide);
}

// Calls f.operator()<N>(). The tables are as wide as the gradient.
template <typename T, typename F>
int visit_update_width(std::span<const TableState> tables, const Rows& grad, const F& f) {
  constexpr int N = kUpdateColumns<T>;
  if constexpr (N > 1) {
    // Four threads for a row are the least: they should all have something to read.
    if (grad.column_stride == 1 && grad.dim >= 4 * N && grad.dim % N == 0 &&
        grad.row_stride % N == 0 && is_aligned(grad.data, N * sizeof(T)) &&
        std::all_of(tables.begin(), tables.end(), is_wide<T>)) {
      return f.template operator()<N>();
    }
  }
  return f.template operator()<1>();
}

template <typename T, typename F>
int visit_update_width(const TableState& table, const Rows& grad, const F& f) {
  return visit_update_width<T>({&table, 1}, grad, f);
}

// Calls f.operator()<N>(reader) with the reader of what is summed up.
template <typename T, typename F>
int visit_update_reader(std::span<const TableState> tables, const GradientSum& sum, const F& f) {
  if (sum.maxima.words) return f.template operator()<1>(any_row<T>(sum));
  return visit_update_width<T>(tables, sum.rows, [&]<int N>() {
    if constexpr (N > 1) {
      return f.template operator()<N>(reader_of<T, N>(sum.rows));
    } else {
      return f.template operator()<1>(any_row<T>(sum));
    }
  });
}

template <typename T, typename F>
int visit_update_reader(const TableState& table, const GradientSum& sum, const F& f) {
  return visit_update_reader<T>({&table, 1}, sum, f);
}

}  // namespace myemb::cuda
