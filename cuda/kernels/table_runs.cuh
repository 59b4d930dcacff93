#pragma once

// Runs (segments.cuh) of several tables, whose rows were numbered one table after the other.

#include <cuda/kernels/features.cuh>
#include <cuda/kernels/runs.cuh>
#include <cuda/kernels/where_max.cuh>

namespace myemb::cuda {

// Rows of tables that the launch has not are passed over, those before as what is left of a run
// that another window began, those behind as padding. Results have packed rows.
template <typename A>
class TableRuns : public Runs<A> {
 public:
  TableRuns(const GradientSum& args, std::span<const GroupedTable> tables)
      : Runs<A>(args),
        end_row_(tables.back().first_row + tables.back().num_rows),
        count_(static_cast<int>(tables.size())) {
    for (size_t t = 0; t < tables.size(); ++t) first_rows_[t] = tables[t].first_row;
  }

  __device__ int64_t out_row(int64_t row) const {
    const int table = last_beginning(count_, row, [&](int t) { return first_rows_[t]; });
    return packed_row(table, row - first_rows_[table]);
  }

  __device__ bool starts_run(int64_t i) const {
    return this->row_or_padding(i) >= first_rows_[0] && Runs<A>::starts_run(i);
  }

  __device__ bool starts_row(int64_t i) const {
    return has(this->sorted_.row(i)) && Runs<A>::starts_row(i);
  }

  __device__ Segment run_from(int64_t i) const {
    Segment run = Runs<A>::run_from(i);
    run.out_row = out_row(run.out_row);
    return run;
  }

  __device__ RunBorder border(int64_t i) const {
    const int64_t row = this->row_or_padding(i);
    const bool is_long = row == this->row_or_padding(i + kChunk);
    return {row, starts_run(i), is_long || row >= end_row_};
  }

  __device__ Segment containing(int64_t i) const {
    if (!has(this->sorted_.row(i))) return {0, i, i};
    Segment run = Runs<A>::containing(i);
    run.out_row = out_row(run.out_row);
    return run;
  }

 private:
  __device__ bool has(int64_t row) const { return row >= first_rows_[0] && row < end_row_; }

  int64_t end_row_;
  int count_;
  int64_t first_rows_[kMaxTables];
};

// AnyRow (update_width.cuh) where gradients and positions have places of their own.
template <typename T>
struct AnyTableRow : WhereMax<T, 1> {
  const int64_t* position_starts;

  template <typename Lookup>
  __device__ typename WhereMax<T, 1>::Place place(const Lookup& lookup) const {
    // A thread without a lookup has no position, and reads the first maxima.
    const bool has_maxima = this->positions && lookup.position >= 0;
    const int64_t start = has_maxima ? position_starts[lookup.position] : 0;
    return {this->row(lookup.row), this->positions + start, lookup.position};
  }

  template <int kRows>
  __device__ void read_batch(const typename WhereMax<T, 1>::Place* places, int64_t column,
                             Batch<T, 1, kRows>& batch) const {
    read_any_batch(*this, places, column, batch);
  }
};

template <typename T>
AnyTableRow<T> any_table_row(const TablesGradientSum& args) {
  return {{reader_of<T, 1>(args.sum.rows), args.sum.positions, args.sum.rows.dim},
          args.position_starts};
}

// Calls f with the tables of each launch and the number of the first.
template <typename F>
int for_each_launch(const TablesGradientSum& args, const F& f) {
  return for_each_launch(args.tables, f);
}

}  // namespace myemb::cuda
