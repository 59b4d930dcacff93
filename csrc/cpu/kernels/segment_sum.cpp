// gather-reduce by addition: sum and mean bags, and every dense gradient.

#include <cpu/kernels/row_sums.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace myemb::MYEMB_ISA {
namespace {

// Sums in the loops of RowSums; returns how many lookups were left out.
template <typename T>
int64_t sum_rows(const SegmentSum& args, int64_t begin, int64_t end, bool rounded) {
  return visit_lookups(args,
                       [&]<typename Index, bool kWeighted>(Index, std::bool_constant<kWeighted>) {
                         return RowSums<T, Index, kWeighted>(args, rounded).sum(begin, end);
                       });
}

// The lookups [begin, end) of a segment as a segment of its own, summed into accumulators.
template <typename T>
int64_t sum_part(SegmentSum args, int64_t begin, int64_t end, Accumulator<T>* out) {
  const int64_t borders[] = {begin, end};
  args.segments = {.starts = borders, .starts_count = 2, .length = 0, .count = 1, .total = end};
  args.average = false;
  args.out_rows = nullptr;
  args.zeroed_rows = 0;
  args.out = out;
  args.out_stride = 0;
  return end - begin - sum_rows<T>(args, 0, 1, /*rounded=*/false);
}

// sum += row, and out = sum / divisor: how the chunks of a long segment come together.
template <typename A>
void add_row(A* sum, const A* row, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) sum[d] += row[d];
}

template <typename T>
void store_row(const SegmentSum& args, int64_t segment, const Accumulator<T>* sum,
               int64_t counted) {
  using A = Accumulator<T>;
  const int64_t row = (args.out_rows ? args.out_rows[segment] : segment) * out_stride(args);
  cover_columns<A>(args.rows.dim, [&]<int L, int V>(Columns<L, V> columns) {
    for (int v = 0; v < V; ++v) {
      Vector<A, L> x = load<L>(sum + columns[v]);
      if (args.average && counted > 1) x = x / static_cast<A>(counted);
      args.exact ? store<L>(static_cast<A*>(args.out) + row + columns[v], x)
                 : store<L>(static_cast<T*>(args.out) + row + columns[v], x);
    }
  });
}

// What RowSums does not do, element by element: tables with strided columns or with none, and mode
// max's gradient, in which a lookup adds only to the columns whose maximum it was.
template <typename T>
class ElementSums {
 public:
  using A = Accumulator<T>;

  explicit ElementSums(const SegmentSum& args)
      : args_(args), dim_(args.rows.dim), sum_(new A[dim_]), partial_(new A[dim_]) {}

  void sum(int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) sum_segment(s);
  }

  // Sums the lookups [begin, end) of one chunk; returns how many were not left out.
  int64_t sum_chunk(int64_t begin, int64_t end, A* out) const {
    std::fill_n(out, dim_, A(0));
    if (args_.positions) return sum_where_max(begin, end, out);
    if (args_.indices.is_int64) return sum_elements<int64_t>(begin, end, out);
    return sum_elements<int32_t>(begin, end, out);
  }

 private:
  void sum_segment(int64_t segment) {
    const int64_t begin = args_.segments.begin(segment), end = args_.segments.end(segment);
    int64_t counted = sum_chunk(begin, std::min(end, begin + kChunk), sum_.get());
    for (int64_t chunk = begin + kChunk; chunk < end; chunk += kChunk) {
      counted += sum_chunk(chunk, std::min(end, chunk + kChunk), partial_.get());
      add_row(sum_.get(), partial_.get(), dim_);
    }
    store_row<T>(args_, segment, sum_.get(), counted);
  }

  A weight(int64_t i) const { return args_.weights ? static_cast<const A*>(args_.weights)[i] : 1; }

  template <typename Index>
  int64_t sum_elements(int64_t begin, int64_t end, A* out) const {
    const auto* indices = static_cast<const Index*>(args_.indices.data);
    int64_t counted = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = indices[i];
      if (!is_row(index, args_.rows.count)) {
        args_.bad->note(i);
      } else if (index != args_.padding_idx) {
        ++counted;
        const T* row = static_cast<const T*>(args_.rows.data) + index * args_.rows.row_stride;
        for (int64_t d = 0; d < dim_; ++d) {
          out[d] += load<1>(row + d * args_.rows.column_stride) * weight(i);
        }
      }
    }
    return counted;
  }

  int64_t sum_where_max(int64_t begin, int64_t end, A* out) const {
    const auto* bags = static_cast<const int64_t*>(args_.indices.data);
    for (int64_t i = begin; i < end; ++i) {
      const T* row = static_cast<const T*>(args_.rows.data) + bags[i] * args_.rows.row_stride;
      const int64_t* positions =
          args_.positions + (args_.position_starts ? args_.position_starts[i] : bags[i] * dim_);
      const int64_t lookup = args_.lookups[i];
      const A factor = weight(i);
      for (int64_t d = 0; d < dim_; ++d) {
        out[d] += positions[d] == lookup ? load<1>(row + d) * factor : A(0);
      }
    }
    return end - begin;
  }

  const SegmentSum& args_;
  const int64_t dim_;
  const std::unique_ptr<A[]> sum_;
  const std::unique_ptr<A[]> partial_;
};

void zero_bytes(char* to, int64_t bytes, bool streamed) {
  if (!streamed) {
    if (bytes > 0) std::memset(to, 0, bytes);  // an empty tensor's address may be null
    return;
  }
  for (int64_t at = 0; at < bytes; at += kVectorBytes) {
    stream_bytes(to + at, Vector<char, kVectorBytes>{});
  }
}

bool by_element(const SegmentSum& args) {
  return args.rows.column_stride != 1 || args.positions || args.rows.dim == 0;
}

}  // namespace

void segment_sum(const SegmentSum& args, int64_t begin, int64_t end) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    if (by_element(args)) return ElementSums<T>(args).sum(begin, end);
    sum_rows<T>(args, begin, end, !args.exact);
  });
}

void zero_gaps(const SegmentSum& args, int64_t begin, int64_t end, int64_t segment) {
  const int64_t row_bytes = args.rows.dim * size_of(args.rows.dtype);
  const bool streamed = is_streamed(args);
  for (int64_t row = begin; row < end; ++row, ++segment) {
    const bool is_last = segment >= args.segments.count;
    const int64_t gap_end = is_last ? end : std::min(args.out_rows[segment], end);
    char* const gap = static_cast<char*>(args.out) + row * row_bytes;
    zero_bytes(gap, (gap_end - row) * row_bytes, streamed);
    row = gap_end;
  }
  if (streamed) finish_streaming();
}

int64_t segment_sum_chunk(const SegmentSum& args, int64_t segment, int64_t chunk, void* partial) {
  return visit(args.rows.dtype, [&]<typename T>(T) {
    const int64_t begin = args.segments.begin(segment) + chunk * kChunk;
    const int64_t end = std::min(begin + kChunk, args.segments.end(segment));
    auto* const out = static_cast<Accumulator<T>*>(partial);
    if (by_element(args)) return ElementSums<T>(args).sum_chunk(begin, end, out);
    return sum_part<T>(args, begin, end, out);
  });
}

void segment_sum_combine(const SegmentSum& args, int64_t segment, const void* partials,
                         int64_t chunks, int64_t counted) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    using A = Accumulator<T>;
    const int64_t dim = args.rows.dim;
    const auto* rows = static_cast<const A*>(partials);
    const std::unique_ptr<A[]> sum(new A[dim]);
    std::copy_n(rows, dim, sum.get());
    for (int64_t c = 1; c < chunks; ++c) add_row(sum.get(), rows + c * dim, dim);
    store_row<T>(args, segment, sum.get(), counted);
  });
}

}  // namespace myemb::MYEMB_ISA
