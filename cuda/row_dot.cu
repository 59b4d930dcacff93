// The gradient of per_sample_weights: a dot product per lookup.

#include <cuda/launch.h>
#include <cuda/kernels/dot.cuh>
#include <cuda/kernels/refuse.cuh>

namespace myemb::cuda {
namespace {

// The lookups of a call.
template <typename T, int N, bool kWhereMax>
struct BagDots {
  RowDot args;
  RowReader<T, N> left_rows, right_rows;

  __device__ int64_t count() const { return args.indices.count; }
  __device__ int64_t dim() const { return args.left.dim; }

  __device__ DotOf<T, N, kWhereMax> lookup(int64_t i) const {
    const int64_t bag = args.left_of[i];
    const int64_t index = load_index(args.indices, i);
    if (!is_row(index, args.right.count)) refuse_index(Op::EmbeddingBagPerSampleWeightsBackward);
    const int64_t some_bag = max(bag, int64_t{0});  // of padding, whose product is not used
    return {{left_rows, right_rows, left_rows.row(some_bag), right_rows.row(index),
             args.positions + some_bag * dim()},
            i,
            bag < 0,
            true};
  }
};

template <typename T, bool kWhereMax>
int launch_dots(const RowDot& args, Stream stream) {
  const auto launch = [&]<int N>() {
    const BagDots<T, N, kWhereMax> dots{args, reader_of<T, N>(args.left),
                                        reader_of<T, N>(args.right)};
    return cuda::launch_dots<T, N, kWhereMax>(dots, args.indices.count, args.left.dim, args.scales,
                                              args.out, stream);
  };
  if (kWhereMax && !is_aligned(args.positions, kAccessBytes)) {
    return launch.template operator()<1>();
  }
  return visit_width<T, kDotColumns<T, kWhereMax>>(args.left, args.left.data, [&]<int kLeft>() {
    return visit_width<T, kLeft>(args.right, args.right.data, launch);
  });
}

}  // namespace

int launch_row_dot(const RowDot& args, Stream stream) {
  if (args.indices.count == 0) return cudaSuccess;
  return visit(args.left.dtype, [&]<typename T>(T) {
    return args.positions ? launch_dots<T, true>(args, stream)
                          : launch_dots<T, false>(args, stream);
  });
}

}  // namespace myemb::cuda
