#pragma once

// Runs (segments.cuh) of several tables, whose rows were numbered one table after the other.

#include <cuda/kernels/features.cuh>
#include <cuda/kernels/runs.cuh>

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

  __device__ Segment long_over(int64_t window) const {
    if (!has(this->sorted_.row(window * kChunk))) return {0, 0, 0};
    Segment run = Runs<A>::long_over(window);
    if (run.length() > 0) run.out_row = out_row(run.out_row);
    return run;
  }

 private:
  __device__ bool has(int64_t row) const { return row >= first_rows_[0] && row < end_row_; }

  int64_t end_row_;
  int count_;
  int64_t first_rows_[kMaxTables];
};

// Calls f with the tables of each launch and the number of the first.
template <typename F>
int for_each_launch(const TablesGradientSum& args, const F& f) {
  return for_each_launch(args.tables, f);
}

}  // namespace myemb::cuda
