// The sparse gradient of bags: a row for each lookup.

#include <cpu/kernels/row_tiles.h>

namespace myemb::MYEMB_ISA {
namespace {

template <typename T, typename Index, int L, int V>
[[gnu::noinline]] void expand_tile(const BagExpansion& args, Columns<L, V> columns, int64_t begin,
                                   int64_t end) {
  using A = Accumulator<T>;
  const auto* const indices = static_cast<const Index*>(args.indices.data);
  const auto* const weights = static_cast<const A*>(args.weights);
  const Segments segments = args.segments;
  const int64_t dim = args.rows.dim, padding = args.padding_idx, num_rows = args.num_rows;
  const int64_t first_lookup = args.first_lookup;
  int64_t first_bad = BadIndex::kNone;
  const bool streamed =
      is_streamed(args.out, args.indices.count, dim * static_cast<int64_t>(sizeof(T)));
  const T* const rows = static_cast<const T*>(args.rows.data);
  T* const out = static_cast<T*>(args.out);
  for (int64_t s = begin; s < end; ++s) {
    const Tile<const T, L, V> row(rows + s * args.rows.row_stride, columns);
    Vector<A, L> values[V];
    for (int v = 0; v < V; ++v) values[v] = Vector<A, L>{} + load<L>(row[v]);
    for (int64_t i = segments.begin(s); i < segments.end(s); ++i) {
      const Tile<T, L, V> to(out + (i - first_lookup) * dim, columns);
      const int64_t index = indices[i];
      if (!is_row(index, num_rows)) [[unlikely]] {
        first_bad = std::min(first_bad, i);
        continue;
      }
      const bool is_padding = index == padding;
      for (int v = 0; v < V; ++v) {
        Vector<A, L> x = values[v];
        if (weights) x = Vector<A, L>{} + load<L>(row[v]) * weights[i];
        if (is_padding) x = Vector<A, L>{};
        streamed ? stream<L>(to[v], x) : store<L>(to[v], x);
      }
    }
  }
  if (streamed) finish_streaming();
  if (first_bad != BadIndex::kNone) args.bad->note(first_bad);
}

// A table without columns has no tile that would look at the indices.
template <typename Index>
void check_rows(const BagExpansion& args, int64_t begin, int64_t end) {
  const auto* const indices = static_cast<const Index*>(args.indices.data);
  for (int64_t i = args.segments.begin(begin); i < args.segments.end(end - 1); ++i) {
    if (!is_row(indices[i], args.num_rows)) args.bad->note(i);
  }
}

}  // namespace

void expand_bags(const BagExpansion& args, int64_t begin, int64_t end) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    const auto expand = [&]<typename Index>(Index) {
      if (args.rows.dim == 0 && begin < end) return check_rows<Index>(args, begin, end);
      for_tiles<Accumulator<T>>(args.rows.dim, begin, end,
                                [&](auto columns, int64_t first, int64_t last) {
                                  expand_tile<T, Index>(args, columns, first, last);
                                });
    };
    args.indices.is_int64 ? expand(int64_t{}) : expand(int32_t{});
  });
}

}  // namespace myemb::MYEMB_ISA
