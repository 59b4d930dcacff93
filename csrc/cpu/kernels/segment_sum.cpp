// gather-reduce by addition: sum and mean bags, and every dense gradient.

#include <cpu/kernels/row_source.h>

#include <algorithm>

namespace myemb::MYEMB_ISA {
namespace {

// out = sum_i weight_i * row_i over the lookups [begin, end), divided by how many there are if
// average; returns that number. The sums stay in registers from the first row to the last.
template <bool kWeighted, typename Source, typename Out>
int64_t sum_rows(const Source& source, int64_t begin, int64_t end, int64_t dim, bool average,
                 Out* out) {
  using A = typename Source::A;
  int64_t counted = 0;
  const auto sum_tile = [&]<int L, int V>(int64_t column) {
    Vector<A, L> sum[V] = {};
    counted = 0;
    for (int64_t i = begin; i < end; ++i) {
      const auto* row = source.template row<L * V>(i, column);
      if (!row) continue;
      ++counted;
      for (int v = 0; v < V; ++v) {
        Vector<A, L> x = load<L>(row + column + v * L);
        if constexpr (kWeighted) x = x * source.weight(i);
        sum[v] += x;
      }
    }
    for (int v = 0; v < V; ++v) {
      if (average && counted > 1) sum[v] = sum[v] / static_cast<A>(counted);
      store<L>(out + column + v * L, sum[v]);
    }
  };
  cover_columns<A>(dim, sum_tile);
  if (dim == 0) {  // nothing to add, but indices to check
    for (int64_t i = begin; i < end; ++i) counted += source.template row<1>(i, 0) != nullptr;
  }
  return counted;
}

// sum += row, and out = sum / divisor: how the chunks of a long segment come together.
template <typename A>
void add_row(A* sum, const A* row, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) sum[d] += row[d];
}

template <typename T>
void store_row(const Accumulator<T>* sum, int64_t dim, Accumulator<T> divisor, T* out) {
  using A = Accumulator<T>;
  cover_columns<A>(dim, [&]<int L, int V>(int64_t column) {
    for (int v = 0; v < V; ++v) {
      Vector<A, L> x = load<L>(sum + column + v * L);
      if (divisor != A(1)) x = x / divisor;
      store<L>(out + column + v * L, x);
    }
  });
}

template <typename T>
class SegmentSummer {
 public:
  using A = Accumulator<T>;

  explicit SegmentSummer(const SegmentSum& args)
      : args_(args),
        dim_(args.rows.dim),
        gatherer_(args.rows, args.indices, args.weights, args.padding_idx, args.bad) {}

  void sum_segment(int64_t segment) {
    const int64_t begin = args_.segments.begin(segment), end = args_.segments.end(segment);
    if (end - begin <= kChunk && !args_.positions) {
      sum_lookups(begin, end, args_.average, out_row(segment));
      return;
    }
    A* sum = scratch(sum_);
    A* partial = scratch(partial_);
    int64_t counted = sum_chunk(begin, std::min(end, begin + kChunk), sum);
    for (int64_t chunk = begin + kChunk; chunk < end; chunk += kChunk) {
      counted += sum_chunk(chunk, std::min(end, chunk + kChunk), partial);
      add_row(sum, partial, dim_);
    }
    store_row<T>(sum, dim_, divisor(counted), out_row(segment));
  }

  // Sums the lookups [begin, end) of one chunk; returns how many were not padding.
  int64_t sum_chunk(int64_t begin, int64_t end, A* out) {
    if (args_.positions) return sum_where_max(begin, end, out);
    return sum_lookups(begin, end, /*average=*/false, out);
  }

  void combine(int64_t segment, const A* partials, int64_t chunks, int64_t counted) {
    A* sum = scratch(sum_);
    std::copy_n(partials, dim_, sum);
    for (int64_t c = 1; c < chunks; ++c) add_row(sum, partials + c * dim_, dim_);
    store_row<T>(sum, dim_, divisor(counted), out_row(segment));
  }

 private:
  A divisor(int64_t counted) const {
    return args_.average ? static_cast<A>(std::max<int64_t>(counted, 1)) : A(1);
  }

  T* out_row(int64_t segment) const {
    const int64_t row = args_.out_rows ? args_.out_rows[segment] : segment;
    return static_cast<T*>(args_.out) + row * dim_;
  }

  A* scratch(std::unique_ptr<A[]>& buffer) {
    if (!buffer) buffer.reset(new A[dim_]);
    return buffer.get();
  }

  template <typename Out>
  int64_t sum_lookups(int64_t begin, int64_t end, bool average, Out* out) {
    if (args_.rows.column_stride != 1) {
      gatherer_.gather(begin, end, list_);
      return sum_source(ListedRows<T>{list_}, 0, list_.count, average, out);
    }
    if (args_.indices.is_int64) return sum_source(table_rows<int64_t>(), begin, end, average, out);
    return sum_source(table_rows<int32_t>(), begin, end, average, out);
  }

  template <typename Source, typename Out>
  int64_t sum_source(const Source& source, int64_t begin, int64_t end, bool average, Out* out) {
    if (args_.weights) return sum_rows<true>(source, begin, end, dim_, average, out);
    return sum_rows<false>(source, begin, end, dim_, average, out);
  }

  template <typename Index>
  TableRows<T, Index> table_rows() const {
    return {static_cast<const T*>(args_.rows.data),
            args_.rows.count,
            args_.rows.row_stride,
            static_cast<const Index*>(args_.indices.data),
            args_.indices.count,
            args_.padding_idx,
            static_cast<const A*>(args_.weights),
            args_.bad};
  }

  // Mode max's gradient: a lookup adds only to the columns whose maximum it was.
  int64_t sum_where_max(int64_t begin, int64_t end, A* out) {
    const auto* bags = static_cast<const int64_t*>(args_.indices.data);
    const auto* weights = static_cast<const A*>(args_.weights);
    std::fill_n(out, dim_, A(0));
    for (int64_t i = begin; i < end; ++i) {
      const T* row = static_cast<const T*>(args_.rows.data) + bags[i] * args_.rows.row_stride;
      const int64_t* positions = args_.positions + bags[i] * dim_;
      const int64_t lookup = args_.lookups[i];
      const A weight = weights ? weights[i] : A(1);
      for (int64_t d = 0; d < dim_; ++d) {
        out[d] += positions[d] == lookup ? load<1>(row + d) * weight : A(0);
      }
    }
    return end - begin;
  }

  const SegmentSum& args_;
  const int64_t dim_;
  RowGatherer<T> gatherer_;
  RowList<T> list_;
  std::unique_ptr<A[]> sum_;
  std::unique_ptr<A[]> partial_;
};

}  // namespace

void segment_sum(const SegmentSum& args, int64_t begin, int64_t end) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    SegmentSummer<T> summer(args);
    for (int64_t s = begin; s < end; ++s) summer.sum_segment(s);
  });
}

int64_t segment_sum_chunk(const SegmentSum& args, int64_t segment, int64_t chunk, void* partial) {
  return visit(args.rows.dtype, [&]<typename T>(T) {
    const int64_t begin = args.segments.begin(segment) + chunk * kChunk;
    const int64_t end = std::min(begin + kChunk, args.segments.end(segment));
    return SegmentSummer<T>(args).sum_chunk(begin, end, static_cast<Accumulator<T>*>(partial));
  });
}

void segment_sum_combine(const SegmentSum& args, int64_t segment, const void* partials,
                         int64_t chunks, int64_t counted) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    const auto* rows = static_cast<const Accumulator<T>*>(partials);
    SegmentSummer<T>(args).combine(segment, rows, chunks, counted);
  });
}

}  // namespace myemb::MYEMB_ISA
