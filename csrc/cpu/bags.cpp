#include <cpu/bags.h>

#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <myemb/ops.h>

#include <ATen/ops/empty.h>

namespace myemb {
namespace {

// The mean's division is taken into the weights.
template <typename A, typename Index>
void fill_sources(const SourceFill& fill, const Index* indices, int64_t begin, int64_t end) {
  const auto* weights = static_cast<const A*>(fill.per_sample_weights);
  auto* const weight_of = static_cast<A*>(fill.weights);
  for (int64_t bag = begin; bag < end; ++bag) {
    const int64_t first = fill.segments.begin(bag), last = fill.segments.end(bag);
    const int64_t source = fill.first_source + bag * fill.source_stride;
    if (fill.sources) std::fill(fill.sources + first, fill.sources + last, source);
    if (!weight_of) continue;
    int64_t counted = 0;
    for (int64_t i = first; fill.average && i < last; ++i) {
      counted += static_cast<int64_t>(indices[i]) != fill.padding_idx;
    }
    const A divisor = static_cast<A>(std::max<int64_t>(counted, 1));
    for (int64_t i = first; i < last; ++i) weight_of[i] = (weights ? weights[i] : A(1)) / divisor;
  }
}

}  // namespace

CpuBags::CpuBags(const BagArguments& arguments, std::optional<int64_t> padding_idx,
                 int64_t num_weights, at::ScalarType values)
    : BagViews(arguments, padding_idx, num_weights, values) {
  if (!segments.starts) return;
  check_offsets(segments.starts, segments.starts_count, indices.count,
                arguments.include_last_offset);
}

void fill_sources(const SourceFill& fill, at::ScalarType accumulator, int64_t begin, int64_t end) {
  visit_indices(fill.indices, [&](const auto* indices) {
    if (accumulator == at::kDouble) return fill_sources<double>(fill, indices, begin, end);
    fill_sources<float>(fill, indices, begin, end);
  });
}

LookupSources lookup_sources(const CpuBags& bags, bool average, at::ScalarType accumulator) {
  LookupSources sources;
  sources.bags = std::make_unique_for_overwrite<int64_t[]>(bags.indices.count);
  if (average || bags.weights.defined()) {
    sources.weights = at::empty({bags.indices.count}, accumulator);
  }
  const SourceFill fill{
      .segments = bags.segments,
      .indices = bags.indices,
      .padding_idx = bags.padding_idx,
      .per_sample_weights = bags.weights_data(),
      .average = average,
      .sources = sources.bags.get(),
      .weights = sources.weights.defined() ? sources.weights.mutable_data_ptr() : nullptr,
  };
  parallel_segments(bags.segments, 1, [&](int64_t begin, int64_t end) {
    fill_sources(fill, accumulator, begin, end);
  });
  return sources;
}

void check_offsets(const int64_t* offsets, int64_t count, int64_t num_lookups,
                   bool include_last_offset) {
  check_lookups_have_bags(count, num_lookups);
  if (count == 0) return;
  TORCH_CHECK(
      offsets[0] == 0,
      "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position "
      "0. However, got ",
      offsets[0]);
  TORCH_CHECK(offsets[count - 1] <= num_lookups,
              "offsets[-1] can not be greater than input's length ", num_lookups,
              " but got offsets[-1] of ", offsets[count - 1]);
  for (int64_t i = 1; i < count; ++i) {
    TORCH_CHECK(offsets[i - 1] <= offsets[i],
                "embedding_bag: offsets must not decrease, but offsets[", i - 1, "] is ",
                offsets[i - 1], " and offsets[", i, "] is ", offsets[i]);
  }
  TORCH_CHECK(!include_last_offset || offsets[count - 1] == num_lookups,
              "include_last_offset: offsets[-1] has to be input's length ", num_lookups,
              " but got ", offsets[count - 1]);
}

}  // namespace myemb
