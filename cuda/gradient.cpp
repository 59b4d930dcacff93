#include <cuda/gradient.h>

#include <c10/util/Exception.h>

namespace myemb::cuda {

RowGroups group_by_row(const DeviceCall& call, const Indices& indices, int64_t num_rows,
                       int64_t padding_idx, Op op, const Segments* bags) {
  TORCH_CHECK(num_rows >= 0, "myemb: num_weights must not be negative, but is ", num_rows);
  GroupByRow args{
      .indices = indices,
      .num_rows = num_rows,
      .padding_idx = padding_idx,
      .bags = bags,
      .scratch = nullptr,
      .op = op,
  };
  RowGroups result{call.scratch(static_cast<int64_t>(groups_bytes(args))), {}};
  args.scratch = result.memory.mutable_data_ptr();
  call.check(launch_group_by_row(args, &result.groups, call.stream()));
  return result;
}

at::Tensor partials_of(const DeviceCall& call, const GradientSum& sum) {
  return call.scratch(
      static_cast<int64_t>(sum_partials_bytes(sum.groups.count, sum.rows.dim, sum.rows.dtype)));
}

at::Tensor dense_gradient(const DeviceCall& call, GradientSum sum,
                          const at::TensorOptions& options) {
  const at::Tensor gradient = call.output({sum.groups.num_rows, sum.rows.dim}, options);
  const at::Tensor partials = partials_of(call, sum);
  sum.out = gradient.mutable_data_ptr();
  sum.partials = partials.mutable_data_ptr();
  call.check(launch_zero(sum.out, gradient.nbytes(), call.stream()));
  call.check(launch_gradient_sum(sum, call.stream()));
  return gradient;
}

}  // namespace myemb::cuda
