#include <cpu/bags.h>
#include <cpu/gradient.h>
#include <cpu/group.h>
#include <cpu/large_blocks.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <myemb/ops.h>

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace myemb {
namespace {

using OptionalIndex = std::optional<int64_t>;

at::Tensor dense_backward_cpu(const at::Tensor& grad_output, const at::Tensor& indices,
                              const OptionalTensor& offsets, const OptionalTensor& positions,
                              int64_t num_weights, bool scale_grad_by_freq, int64_t mode,
                              const OptionalTensor& per_sample_weights, bool include_last_offset,
                              OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_bag_gradient(grad_output, positions, arguments, mode);
  const at::ScalarType type = grad_output.scalar_type();
  const CpuBags bags(arguments, padding_idx, num_weights, type);
  const LookupSources sources =
      lookup_sources(bags, is_mode(mode, BagMode::Mean), accumulator_type(type));
  const at::Tensor grad = grad_output.contiguous();
  const at::Tensor argmax = positions ? positions->contiguous() : at::Tensor();
  const GradientSource source{
      .grad_output = grad,
      .bags = sources.bags.get(),
      .segments = bags.segments,
      .weights = sources.weights,
      .positions = positions ? argmax.const_data_ptr<int64_t>() : nullptr,
  };
  return dense_gradient(source, bags.indices, num_weights, bags.padding_idx, scale_grad_by_freq,
                        "embedding_bag_dense_backward");
}

// weight[i] /= how often the row of lookup i was looked up.
template <typename A>
void divide_by_frequency(const RowGroups& groups, A* weights) {
  const Segments segments = groups.segments();
  parallel_segments(segments, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const A frequency = static_cast<A>(segments.end(g) - segments.begin(g));
      for (int64_t i = segments.begin(g); i < segments.end(g); ++i) {
        weights[groups.sources[i]] /= frequency;
      }
    }
  });
}

void scale_by_frequency(LookupSources& sources, const CpuBags& bags, int64_t num_weights,
                        at::ScalarType accumulator) {
  const RowGroups groups =
      group_by_row({bags.indices, num_weights, bags.padding_idx}, "embedding_bag_sparse_backward");
  if (!sources.weights.defined())
    sources.weights = at::empty({bags.indices.count}, accumulator).fill_(1);
  if (accumulator == at::kDouble) {
    divide_by_frequency(groups, sources.weights.mutable_data_ptr<double>());
  } else {
    divide_by_frequency(groups, sources.weights.mutable_data_ptr<float>());
  }
}

at::Tensor sparse_backward_cpu(const at::Tensor& grad_output, const at::Tensor& indices,
                               const OptionalTensor& offsets, int64_t num_weights,
                               bool scale_grad_by_freq, int64_t mode,
                               const OptionalTensor& per_sample_weights, bool include_last_offset,
                               OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, per_sample_weights, include_last_offset};
  check_bag_gradient(grad_output, std::nullopt, arguments, mode);
  const at::ScalarType type = grad_output.scalar_type(), accumulator = accumulator_type(type);
  const CpuBags bags(arguments, padding_idx, num_weights, type);
  const bool average = is_mode(mode, BagMode::Mean);
  LookupSources sources;
  if (average || bags.weights.defined()) sources = lookup_sources(bags, average, accumulator);
  if (scale_grad_by_freq) scale_by_frequency(sources, bags, num_weights, accumulator);
  const at::Tensor grad = grad_output.contiguous();
  const at::Tensor values = empty_result({bags.indices.count, grad.size(1)}, grad_output.options());
  BadIndex bad;
  const BagExpansion args{
      .rows = rows_of(grad),
      .indices = bags.indices,
      .segments = bags.segments,
      .weights = sources.weights.defined() ? sources.weights.const_data_ptr() : nullptr,
      .padding_idx = bags.padding_idx,
      .num_rows = num_weights,
      .out = values.mutable_data_ptr(),
      .bad = &bad,
  };
  parallel_segments(bags.segments, grad.size(1),
                    [&](int64_t begin, int64_t end) { kernels().expand_bags(args, begin, end); });
  check_lookups(bad, bags.indices, num_weights, "embedding_bag_sparse_backward");
  return values;
}

at::Tensor per_sample_weights_backward_cpu(const at::Tensor& grad_output, const at::Tensor& weight,
                                           const at::Tensor& indices, const OptionalTensor& offsets,
                                           const OptionalTensor& positions, int64_t mode,
                                           bool include_last_offset, OptionalIndex padding_idx) {
  const BagArguments arguments{indices, offsets, std::nullopt, include_last_offset};
  check_bag_gradient(grad_output, positions, arguments, mode);
  check_weight_of_gradient(grad_output, weight);
  const at::ScalarType accumulator = accumulator_type(weight.scalar_type());
  const CpuBags bags(arguments, padding_idx, weight.size(0), weight.scalar_type());
  const LookupSources sources = lookup_sources(bags, is_mode(mode, BagMode::Mean), accumulator);
  const at::Tensor grad = grad_output.contiguous();
  const at::Tensor argmax = positions ? positions->contiguous() : at::Tensor();
  const at::Tensor out = at::empty(indices.sizes(), weight.options().dtype(accumulator));
  BadIndex bad;
  const RowDot args{
      .left = rows_of(grad),
      .right = rows_of(weight),
      .left_indices = sources.bags.get(),
      .indices = bags.indices,
      .scales = sources.weights.defined() ? sources.weights.const_data_ptr() : nullptr,
      .padding_idx = bags.padding_idx,
      .positions = positions ? argmax.const_data_ptr<int64_t>() : nullptr,
      .out = out.mutable_data_ptr(),
      .bad = &bad,
  };
  parallel_ranges(bags.indices.count, bags.indices.count * args.left.dim,
                  [&](int64_t begin, int64_t end) { kernels().row_dot(args, begin, end); });
  check_lookups(bad, bags.indices, weight.size(0), "embedding_bag_per_sample_weights_backward");
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(myemb, CPU, m) {
  m.impl("embedding_bag_dense_backward", &dense_backward_cpu);
  m.impl("embedding_bag_sparse_backward", &sparse_backward_cpu);
  m.impl("embedding_bag_per_sample_weights_backward", &per_sample_weights_backward_cpu);
}

}  // namespace myemb
