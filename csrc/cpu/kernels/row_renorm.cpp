// max_norm: scales the rows whose p-norm is too large.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/lanes.h>
#include <policies/norms.h>

namespace myemb::MYEMB_ISA {
namespace {

template <typename T, typename Norm>
Accumulator<T> row_norm(const Norm& norm, const T* row, int64_t dim, int64_t stride) {
  using A = Accumulator<T>;
  const auto join = [&](A a, A b) { return norm.join(a, b); };
  // Inlined by force: gcc would call a long power norm for each column, and vectorise nothing.
  const auto fold = [&](A lane, int64_t d) __attribute__((always_inline)) {
    const A x = load<1>(row + d * stride);
    return norm.fold(lane, x < 0 ? -x : x);
  };
  return norm.finish(reduce_lanes(dim, Norm::start, fold, join));
}

template <typename T>
void scale_row(T* row, int64_t dim, int64_t stride, Accumulator<T> scale) {
  for (int64_t d = 0; d < dim; ++d) store<1>(row + d * stride, load<1>(row + d * stride) * scale);
}

}  // namespace

void row_renorm(const RowRenorm& args, int64_t begin, int64_t end) {
  visit(args.dtype, [&]<typename T>(T) {
    using A = Accumulator<T>;
    visit_norm<A>(args.norm_type, [&](const auto& norm) {
      for (int64_t i = begin; i < end; ++i) {
        T* row = static_cast<T*>(args.data) + args.indices[i] * args.row_stride;
        const double length = row_norm(norm, row, args.dim, args.column_stride);
        if (!(length > args.max_norm)) continue;
        const auto scale = static_cast<A>(args.max_norm / (length + kRenormEpsilon));
        scale_row(row, args.dim, args.column_stride, scale);
      }
    });
  });
}

}  // namespace myemb::MYEMB_ISA
