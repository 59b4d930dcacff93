// max_norm: scales the rows whose p-norm is too large.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/lanes.h>
#include <cpu/kernels/row_access.h>
#include <policies/norms.h>

#include <algorithm>

namespace myemb::MYEMB_ISA {
namespace {

template <typename T, typename Norm>
MYEMB_INLINE Accumulator<T> row_norm(const Norm& norm, const T* row, int64_t dim, int64_t stride) {
  using A = Accumulator<T>;
  const auto join = [&](A a, A b) { return norm.join(a, b); };
  // Inlined by force: gcc would call a long power norm for each column, and vectorise nothing.
  const auto fold = [&](A lane, int64_t d) MYEMB_INLINE_LAMBDA {
    const A x = load<1>(row + d * stride);
    return norm.fold(lane, x < 0 ? -x : x);
  };
  return norm.finish(reduce_lanes(dim, Norm::start, fold, join));
}

template <typename T>
MYEMB_INLINE void scale_row(T* row, int64_t dim, int64_t stride, Accumulator<T> scale) {
  for (int64_t d = 0; d < dim; ++d) store<1>(row + d * stride, load<1>(row + d * stride) * scale);
}

// Inlined twice, so that the compiler sees the stride of a contiguous row.
template <typename T, typename Norm>
MYEMB_INLINE void renorm_row(const Norm& norm, const RowRenorm& args, T* row, int64_t stride) {
  const double length = row_norm(norm, row, args.dim, stride);
  if (!(length > args.max_norm)) return;
  scale_row(row, args.dim, stride,
            static_cast<Accumulator<T>>(args.max_norm / (length + kRenormEpsilon)));
}

template <typename T, typename Norm>
void renorm_rows(const Norm& norm, const RowRenorm& args, int64_t begin, int64_t end) {
  const int64_t stride_bytes = args.row_stride * static_cast<int64_t>(sizeof(T));
  const int64_t row_bytes = args.dim * args.column_stride * static_cast<int64_t>(sizeof(T));
  const Lookups<int64_t> rows({args.rows, /*is_int64=*/true, args.count},
                              kPrefetchBytes / (row_bytes + 1) + 1);
  rows.each(begin, end, [&](int64_t, int64_t index, int64_t later) {
    prefetch_row(args.data, later, stride_bytes, std::min(row_bytes, kPrefetchBytes));
    T* const row = static_cast<T*>(args.data) + index * args.row_stride;
    if (args.column_stride == 1) {
      renorm_row(norm, args, row, 1);
    } else {
      renorm_row(norm, args, row, args.column_stride);
    }
  });
}

}  // namespace

void row_renorm(const RowRenorm& args, int64_t begin, int64_t end) {
  visit(args.dtype, [&]<typename T>(T) {
    visit_norm<Accumulator<T>>(args.norm_type,
                               [&](const auto& norm) { renorm_rows<T>(norm, args, begin, end); });
  });
}

}  // namespace myemb::MYEMB_ISA
