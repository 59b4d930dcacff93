#pragma once

// Where the weights and states that a step changes lie: of one table, or of the rows of several.

#include <cuda/kernels/features.cuh>

namespace myemb::cuda {

template <typename T>
class OneTable {
 public:
  using A = Accumulator<T>;
  static constexpr int kRegistersToSpare = 16;  // of an update, for rows that are read at once

  explicit OneTable(const TableState& table)
      : weights_(static_cast<T*>(table.weight)),
        low_halves_(table.low_halves),
        row_states_(static_cast<A*>(table.row_state)),
        dim_(table.dim) {
    for (int s = 0; s < 3; ++s) states_[s] = static_cast<A*>(table.states[s]);
  }

  // The tables of a row, where it begins there, and its number.
  __device__ T* weights(int64_t /*row*/) const { return weights_; }
  __device__ int16_t* low_halves(int64_t /*row*/) const { return low_halves_; }
  __device__ bool is_split() const { return low_halves_ != nullptr; }
  __device__ A* states(int s, int64_t /*row*/) const { return states_[s]; }
  __device__ A* row_state(int64_t row) const { return row_states_ + row; }
  __device__ int64_t begin(int64_t row) const { return row * dim_; }
  __device__ static int64_t number(int64_t row) { return row; }

 private:
  T* weights_;
  int16_t* low_halves_;
  A* states_[3];
  A* row_states_;
  int64_t dim_;
};

// Tables of one width; rows are packed.
template <typename T>
class ManyTables {
 public:
  using A = Accumulator<T>;
  static constexpr int kRegistersToSpare = sizeof(T) == 2 ? 8 : 16;

  explicit ManyTables(std::span<const TableState> tables) : is_split_(false), dim_(tables[0].dim) {
    for (size_t t = 0; t < tables.size(); ++t) {
      is_split_ |= tables[t].low_halves != nullptr;  // null, too, where a table has no rows
      weights_[t] = static_cast<T*>(tables[t].weight);
      low_halves_[t] = tables[t].low_halves;
      row_states_[t] = static_cast<A*>(tables[t].row_state);
      for (int s = 0; s < 3; ++s) states_[s][t] = static_cast<A*>(tables[t].states[s]);
    }
  }

  __device__ T* weights(int64_t row) const { return weights_[table_of(row)]; }
  __device__ int16_t* low_halves(int64_t row) const { return low_halves_[table_of(row)]; }
  __device__ bool is_split() const { return is_split_; }
  __device__ A* states(int s, int64_t row) const { return states_[s][table_of(row)]; }
  __device__ A* row_state(int64_t row) const { return row_states_[table_of(row)] + row_of(row); }
  __device__ int64_t begin(int64_t row) const { return row_of(row) * dim_; }
  __device__ static int64_t number(int64_t row) { return row_of(row); }

 private:
  T* weights_[kMaxTables];
  int16_t* low_halves_[kMaxTables];
  A* states_[3][kMaxTables];
  A* row_states_[kMaxTables];
  bool is_split_;
  int64_t dim_;
};

}  // namespace myemb::cuda
