// The gradient of per_sample_weights: a dot product per lookup.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/lanes.h>
#include <cpu/kernels/row_access.h>

namespace myemb::MYEMB_ISA {
namespace {

// <left, right> over the columns where positions[d] == lookup, or all where positions is null.
template <typename T>
Accumulator<T> dot(const T* left, const T* right, int64_t right_stride, int64_t dim,
                   const int64_t* positions, int64_t lookup) {
  using A = Accumulator<T>;
  const auto add = [](A a, A b) { return a + b; };
  const auto product = [&](int64_t d) {
    return load<1>(left + d) * load<1>(right + d * right_stride);
  };
  if (positions) {
    return reduce_lanes(
        dim, A(0),
        [&](A lane, int64_t d) { return positions[d] == lookup ? lane + product(d) : lane; }, add);
  }
  if (right_stride != 1) {
    return reduce_lanes(dim, A(0), [&](A lane, int64_t d) { return lane + product(d); }, add);
  }
  return reduce_lanes(  // apart from the strided form only so that the compiler sees unit stride
      dim, A(0), [&](A lane, int64_t d) { return lane + load<1>(left + d) * load<1>(right + d); },
      add);
}

template <typename T, typename Index>
void dot_rows(const RowDot& args, const Index* indices, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  const auto* scales = static_cast<const A*>(args.scales);
  for (int64_t i = begin; i < end; ++i) {
    A* out = static_cast<A*>(args.out) + i;
    const int64_t index = indices[i];
    *out = A(0);
    if (!is_row(index, args.right.count)) {
      args.bad->note(i);
      continue;
    }
    if (index == args.padding_idx) continue;
    const int64_t bag = args.left_indices[i];
    const T* left = static_cast<const T*>(args.left.data) + bag * args.left.row_stride;
    const T* right = static_cast<const T*>(args.right.data) + index * args.right.row_stride;
    const int64_t position = args.position_starts ? args.position_starts[i] : bag * args.left.dim;
    const int64_t* positions = args.positions ? args.positions + position : nullptr;
    *out = dot(left, right, args.right.column_stride, args.left.dim, positions, i);
    if (scales) *out = *out * scales[i];
  }
}

}  // namespace

void row_dot(const RowDot& args, int64_t begin, int64_t end) {
  visit(args.left.dtype, [&]<typename T>(T) {
    if (args.indices.is_int64) {
      dot_rows<T>(args, static_cast<const int64_t*>(args.indices.data), begin, end);
    } else {
      dot_rows<T>(args, static_cast<const int32_t*>(args.indices.data), begin, end);
    }
  });
}

}  // namespace myemb::MYEMB_ISA
