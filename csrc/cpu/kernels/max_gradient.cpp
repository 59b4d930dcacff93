// Mode max's gradient, maximum by maximum: each belongs to one lookup, where a sum by rows would
// compare all columns of all lookups.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/row_access.h>
#include <cpu/kernels/simd.h>

namespace myemb::MYEMB_ISA {

void max_scatter(const MaxScatter& args, int64_t begin, int64_t end) {
  visit(args.grad.dtype, [&]<typename T>(T) {
    using A = Accumulator<T>;
    const int64_t dim = args.grad.dim;
    const int64_t positions_stride = args.positions_stride ? args.positions_stride : dim;
    const auto* const weights = static_cast<const A*>(args.weights);
    auto* const sums = static_cast<A*>(args.sums);
    for (int64_t bag = 0; bag < args.segments.count; ++bag) {
      const int64_t first = args.segments.begin(bag), last = args.segments.end(bag);
      const T* const grad = static_cast<const T*>(args.grad.data) + bag * args.grad.row_stride;
      const int64_t* const positions = args.positions + bag * positions_stride;
      for (int64_t d = begin; d < end; ++d) {
        const int64_t position = positions[d];
        if (position < first || position >= last) continue;  // -1: an empty bag
        const int64_t row = args.sum_rows[position];
        if (row < 0) continue;
        const A value = load<1>(grad + d);
        sums[row * dim + d] += weights ? value * weights[position] : value;
      }
    }
  });
}

void round_rows(const RoundRows& args, int64_t begin, int64_t end) {
  visit(args.dtype, [&]<typename T>(T) {
    using A = Accumulator<T>;
    const auto* from = static_cast<const A*>(args.from) + begin * args.dim;
    for (int64_t i = begin; i < end; ++i, from += args.dim) {
      T* const to = static_cast<T*>(args.out) + args.out_rows[i] * args.dim;
      cover_columns<A>(args.dim, [&]<int L, int V>(Columns<L, V> columns) {
        for (int v = 0; v < V; ++v) store<L>(to + columns[v], load<L>(from + columns[v]));
      });
    }
  });
}

}  // namespace myemb::MYEMB_ISA
