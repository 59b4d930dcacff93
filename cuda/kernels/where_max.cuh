#pragma once

// The readers of mode max going backward.

#include <cuda/kernels/reduce.cuh>

namespace myemb::cuda {

// A lookup adds to the columns whose maximum it was. Rows are read only where that is so: elsewhere
// the very first value is, which costs nothing.
template <typename T, int N>
struct WhereMax : RowReader<T, N> {
  static constexpr bool kSelects = true;

  struct Place {
    const T* row;
    const uint32_t* words;
  };

  Maxima maxima;

  template <typename Lookup>
  __device__ Place place(const Lookup& lookup) const {
    // A thread without a lookup has no position.
    return {this->row(lookup.row), maxima.words + max(lookup.position, int64_t{0}) * maxima.stride};
  }

  template <int kRows>
  __device__ void read_batch(const Place* places, int64_t column, Batch<T, N, kRows>& batch) const {
    const auto word = static_cast<unsigned>(column / Maxima::kWordBits);
    const unsigned bit = static_cast<unsigned>(column) % Maxima::kWordBits;
    uint32_t words[kRows];
#pragma unroll
    for (int u = 0; u < kRows; ++u) words[u] = __ldg(places[u].words + word);
    __syncwarp();  // no load is moved past this point
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const unsigned columns = words[u] >> bit & ((1u << N) - 1);
      batch.columns[u] = columns;
      batch.words[u] = this->read(columns ? places[u].row : this->data, columns ? column : 0);
    }
  }
};

// One column of rows, in mode max or not.
template <typename T>
struct AnyRow : WhereMax<T, 1> {
  static constexpr int kBytes =
      sizeof(T) + sizeof(int64_t);  // a word's address takes registers, too
  using typename WhereMax<T, 1>::Place;

  template <int kRows>
  __device__ void read_batch(const Place* places, int64_t column, Batch<T, 1, kRows>& batch) const {
    if (this->maxima.words) {
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

template <typename T>
AnyRow<T> any_row(const GradientSum& sum) {
  return {{reader_of<T, 1>(sum.rows), sum.maxima}};
}

}  // namespace myemb::cuda
