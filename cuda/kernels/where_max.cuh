#pragma once

// The reader of mode max going backward.

#include <cuda/kernels/reduce.cuh>

namespace myemb::cuda {

// Mode max: a lookup adds to the columns whose maximum it was. Rows are read only where that is so:
// elsewhere the very first value is, which costs nothing.
template <typename T, int N>
struct WhereMax : RowReader<T, N> {
  static constexpr int kBytes = (sizeof(T) + sizeof(int64_t)) * N;
  static constexpr bool kSelects = true;

  struct Place {
    const T* row;
    const int64_t* positions;
    int64_t position;
  };

  const int64_t* positions;  // (B, dim)
  int64_t dim;

  template <typename Lookup>
  __device__ Place place(const Lookup& lookup) const {
    return {this->row(lookup.row), positions + lookup.row * dim, lookup.position};
  }

  template <int kRows>
  __device__ void read_batch(const Place* places, int64_t column, Batch<T, N, kRows>& batch) const {
    Word<int64_t, N> maxima[kRows];
#pragma unroll
    for (int u = 0; u < kRows; ++u) maxima[u] = load_word<N>(places[u].positions + column);
    __syncwarp();  // no load is moved past this point
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const Pack<int64_t, N> pack = unpack<int64_t, N>(maxima[u]);
      unsigned columns = 0;
#pragma unroll
      for (int n = 0; n < N; ++n) columns |= (pack.values[n] == places[u].position) << n;
      batch.columns[u] = columns;
      batch.words[u] = this->read(columns ? places[u].row : this->data, columns ? column : 0);
    }
  }
};

// One column of rows, in mode max or not.
template <typename T, int kRows>
__device__ __forceinline__ void read_any_batch(const WhereMax<T, 1>& rows,
                                               const typename WhereMax<T, 1>::Place* places,
                                               int64_t column, Batch<T, 1, kRows>& batch) {
  if (rows.positions) {
    rows.read_batch(places, column, batch);
    return;
  }
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    batch.words[u] = rows.read(places[u].row, column);
    batch.columns[u] = 1;
  }
}

}  // namespace myemb::cuda
