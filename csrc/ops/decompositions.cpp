#include <ops/decompositions.h>

#include <myemb/ops.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <ops/sparse_rows.h>
#include <ops/types.h>

#include <algorithm>
#include <limits>

namespace myemb {
namespace {

// rows (*, D) of lookups (*) as they are, with each derivative divided by the count of its row:
// what scale_grad_by_freq means, in every mode of differentiation. The difference that carries it
// is zero, and left out where it would be inf - inf.
at::Tensor scale_derivative(const at::Tensor& rows, const at::Tensor& lookups,
                            const c10::SymInt& num_weights) {
  const at::Tensor scale = inverse_frequency(lookups.reshape({-1}), num_weights, rows.scalar_type())
                               .reshape_symint(lookups.sym_sizes())
                               .unsqueeze(-1);
  const at::Tensor fixed = rows.detach();
  return rows + at::where(fixed.isfinite(), (rows - fixed) * (scale - 1), 0);
}

// fp32 for 16-bit values: sums are rounded once here, too.
at::Tensor to_accumulator(const at::Tensor& values) {
  return values.to(accumulator_type(values.scalar_type()));
}

// The bag of each lookup, (N). Of bags that start at the same place all but the last are empty.
at::Tensor bag_of_lookup(const BagArguments& bags) {
  const auto options = bags.indices.options().dtype(at::kLong);
  if (!bags.offsets) {
    const c10::SymInt count = bags.indices.sym_size(0), length = bags.indices.sym_size(1);
    return at::arange(count, options).unsqueeze(1).expand_symint({count, length}).reshape({-1});
  }
  at::Tensor starts =
      checked_offsets(*bags.offsets, bags.indices.sym_size(0), bags.include_last_offset);
  if (bags.include_last_offset) starts = starts.slice_symint(0, 0, bags.num_bags());
  const c10::SymInt count = bags.indices.sym_size(0);
  const at::Tensor begins =
      at::zeros_symint({count + 1}, options).index_add(0, starts, at::ones_like(starts));
  return begins.slice_symint(0, 0, count).cumsum(0) - 1;
}

at::Tensor sum_rows(const at::Tensor& rows, const at::Tensor& bag_of, const c10::SymInt& num_bags) {
  return at::zeros_symint({num_bags, rows.sym_size(1)}, rows.options()).index_add(0, bag_of, rows);
}

// Which lookups count: all but those of padding_idx.
at::Tensor is_counted(const at::Tensor& lookups, const c10::SymInt& padding_idx) {
  if (padding_idx.sym_lt(0).guard_bool(__FILE__, __LINE__)) {
    return at::full_like(lookups, 1, lookups.options().dtype(at::kBool));
  }
  return lookups.ne(at::Scalar(padding_idx));
}

// How many lookups of each bag count, at least 1: the divisor of a mean, (B, 1).
at::Tensor bag_counts(const at::Tensor& keep, const at::Tensor& bag_of, const c10::SymInt& num_bags,
                      at::ScalarType type) {
  return sum_rows(keep.to(type).unsqueeze(1), bag_of, num_bags).clamp_min(1);
}

// values (N, *) of lookups, each divided by the count of its bag.
at::Tensor divide_by_count(const at::Tensor& values, const at::Tensor& keep,
                           const at::Tensor& bag_of, const BagArguments& bags) {
  const at::Tensor counts = bag_counts(keep, bag_of, bags.num_bags(), values.scalar_type());
  return values / counts.index_select(0, bag_of);
}

// positions (B, D) of mode max, made safe to gather with: an empty bag points at the first lookup.
struct MaxSources {
  at::Tensor is_empty;
  at::Tensor lookup;

  // A value of each lookup, (N), to each column's source, (B, D).
  at::Tensor of_lookups(const at::Tensor& values) const {
    return values.index_select(0, lookup.reshape({-1})).reshape_symint(lookup.sym_sizes());
  }
};

MaxSources max_sources(const at::Tensor& positions) {
  return {positions.lt(0), positions.clamp_min(0)};
}

// Where each maximum comes from, (B, D), -1 for an empty bag. Only a greater value replaces one:
// the first of equals wins, and a NaN wins only at the start of its bag, which makes it +inf here
// and -inf elsewhere.
at::Tensor max_positions(const at::Tensor& rows, const at::Tensor& keep, const at::Tensor& bag_of,
                         const c10::SymInt& num_bags) {
  const at::Tensor values = rows.detach();
  const c10::SymInt count = rows.sym_size(0), dim = rows.sym_size(1);
  const at::Tensor position = at::arange(count, bag_of.options());
  const at::Tensor none = at::full_like(position, std::numeric_limits<int64_t>::max());
  const at::Tensor first = at::zeros_symint({num_bags}, bag_of.options())
                               .scatter_reduce(0, bag_of, at::where(keep, position, none), "amin",
                                               /*include_self=*/false);
  const at::Tensor is_first = (first.index_select(0, bag_of) == position).unsqueeze(1);
  constexpr double inf = std::numeric_limits<double>::infinity();
  const at::Tensor ranked = at::where(values.isnan(), at::where(is_first, inf, -inf), values)
                                .masked_fill(keep.logical_not().unsqueeze(1), -inf);
  const at::Tensor columns = bag_of.unsqueeze(1).expand_symint({count, dim});
  const at::Tensor top = at::zeros_symint({num_bags, dim}, ranked.options())
                             .scatter_reduce(0, columns, ranked, "amax", /*include_self=*/false);
  const at::Tensor wins = (ranked == top.index_select(0, bag_of)).logical_and(keep.unsqueeze(1));
  const at::Tensor winners = at::where(wins, position.unsqueeze(1), none.unsqueeze(1));
  const at::Tensor argmax =
      at::zeros_symint({num_bags, dim}, bag_of.options())
          .sub(1)
          .scatter_reduce(0, columns, winners, "amin", /*include_self=*/false);
  return at::where(argmax == std::numeric_limits<int64_t>::max(), -1, argmax);
}

bool has_tangent(const at::Tensor& tensor) { return tensor._fw_grad(/*level=*/0).defined(); }

// The sign by which python/myemb/decompositions.py asks for a decomposition: a key that tensors
// have, and that nothing else includes for a thread.
bool is_asked_for() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::ZeroTensor);
}

}  // namespace

// This and the next are exported for tests/cudasim, which compiles callers of theirs a second time.
MYEMB_API bool is_transformed() {
  using c10::DispatchKey;
  return c10::impl::tls_is_dispatch_key_included(DispatchKey::FuncTorchDynamicLayerBackMode) ||
         c10::impl::tls_is_dispatch_key_included(DispatchKey::FuncTorchDynamicLayerFrontMode);
}

MYEMB_API bool needs_decomposition(std::initializer_list<const at::Tensor*> tensors) {
  return is_asked_for() ||
         std::any_of(tensors.begin(), tensors.end(),
                     [](const at::Tensor* tensor) { return tensor && has_tangent(*tensor); });
}

bool needs_decomposition(at::TensorList tensors) {
  return is_asked_for() || std::any_of(tensors.begin(), tensors.end(), has_tangent);
}

at::Tensor decompose_embedding(const at::Tensor& weight, const at::Tensor& indices,
                               const c10::SymInt& padding_idx, bool scale_grad_by_freq) {
  const at::Tensor lookups = indices.to(at::kLong);
  // A 16-bit table goes through fp32, so that its gradient is accumulated there.
  const at::Tensor table = is_16_bit(weight) ? weight.to(at::kFloat) : weight;
  at::Tensor rows = at::embedding_symint(table, lookups, -1, false, /*sparse=*/false);
  if (scale_grad_by_freq) rows = scale_derivative(rows, lookups, weight.sym_size(0));
  rows = rows.to(weight.scalar_type());
  if (padding_idx.sym_lt(0).guard_bool(__FILE__, __LINE__)) return rows;
  // The row is returned and its derivative is zero, in every mode of differentiation and for every
  // batch.
  const at::Tensor is_padding = lookups.eq(at::Scalar(padding_idx)).unsqueeze(-1);
  return at::where(is_padding, rows.detach(), rows);
}

at::Tensor decompose_embedding_bag(const at::Tensor& weight, const BagArguments& bags, int64_t mode,
                                   const c10::SymInt& padding_idx, bool scale_grad_by_freq) {
  const at::Tensor bag_of = bag_of_lookup(bags);
  const c10::SymInt num_bags = bags.num_bags();
  const at::Tensor lookups = bags.indices.reshape({-1}).to(at::kLong);
  const at::Tensor keep = is_counted(lookups, padding_idx);
  at::Tensor rows =
      to_accumulator(decompose_embedding(weight, lookups, padding_idx, scale_grad_by_freq));
  if (bags.per_sample_weights) {
    rows = rows * to_accumulator(bags.per_sample_weights->reshape({-1})).unsqueeze(1);
  }
  at::Tensor out;
  if (is_mode(mode, BagMode::Max)) {
    out = gather_positions(rows, at::arange(lookups.sym_size(0), lookups.options()),
                           max_positions(rows, keep, bag_of, num_bags), std::nullopt);
  } else {
    // where, not a product with the mask: a padding row may hold NaN
    out = sum_rows(at::where(keep.unsqueeze(1), rows, 0), bag_of, num_bags);
    if (is_mode(mode, BagMode::Mean)) {
      out = out / bag_counts(keep, bag_of, num_bags, out.scalar_type());
    }
  }
  return out.to(weight.scalar_type());
}

at::Tensor gather_positions(const at::Tensor& weight, const at::Tensor& indices,
                            const at::Tensor& positions, const OptionalTensor& per_sample_weights) {
  const at::Tensor lookups = indices.reshape({-1}).to(at::kLong);
  if (lookups.sym_numel() == 0) {  // every bag is empty: keep the graph, gather nothing
    return at::zeros_symint(positions.sym_sizes(), weight.options()) + weight.slice(0, 0, 0).sum();
  }
  const MaxSources sources = max_sources(positions);
  at::Tensor out = to_accumulator(weight.gather(0, sources.of_lookups(lookups)));
  if (per_sample_weights) {
    out = out * to_accumulator(sources.of_lookups(per_sample_weights->reshape({-1})));
  }
  return at::where(sources.is_empty, 0, out).to(weight.scalar_type());
}

at::Tensor decompose_sparse_values(const at::Tensor& grad_output, const BagArguments& bags,
                                   const c10::SymInt& num_weights, bool scale_grad_by_freq,
                                   int64_t mode, const c10::SymInt& padding_idx) {
  const at::Tensor bag_of = bag_of_lookup(bags);
  const at::Tensor lookups = bags.indices.reshape({-1}).to(at::kLong);
  at::Tensor values = to_accumulator(grad_output.index_select(0, bag_of));
  if (bags.per_sample_weights) {
    values = values * to_accumulator(bags.per_sample_weights->reshape({-1})).unsqueeze(1);
  }
  const at::Tensor keep = is_counted(lookups, padding_idx);
  if (is_mode(mode, BagMode::Mean)) values = divide_by_count(values, keep, bag_of, bags);
  if (scale_grad_by_freq) {
    values = values * inverse_frequency(lookups, num_weights, values.scalar_type());
  }
  return at::where(keep.unsqueeze(1), values, 0).to(grad_output.scalar_type());
}

at::Tensor decompose_embedding_dense_backward(const at::Tensor& grad_output,
                                              const at::Tensor& indices,
                                              const c10::SymInt& num_weights,
                                              const c10::SymInt& padding_idx,
                                              bool scale_grad_by_freq) {
  const at::Tensor lookups = indices.reshape({-1, 1});
  const at::Tensor grad =
      grad_output.reshape_symint({lookups.sym_size(0), grad_output.sym_size(-1)});
  const OptionalTensor none;
  return decompose_bag_dense_backward(grad, {lookups, none, none, false}, none, num_weights,
                                      scale_grad_by_freq, static_cast<int64_t>(BagMode::Sum),
                                      padding_idx);
}

at::Tensor decompose_bag_dense_backward(const at::Tensor& grad_output, const BagArguments& bags,
                                        const OptionalTensor& positions,
                                        const c10::SymInt& num_weights, bool scale_grad_by_freq,
                                        int64_t mode, const c10::SymInt& padding_idx) {
  const at::Tensor grad = to_accumulator(grad_output);
  const at::Tensor lookups = bags.indices.reshape({-1}).to(at::kLong);
  const at::Tensor zeros = at::zeros_symint({num_weights, grad.sym_size(1)}, grad.options());
  at::Tensor out;
  if (positions) {
    const MaxSources sources = max_sources(*positions);
    at::Tensor values = grad;
    if (bags.per_sample_weights) {
      values = values * to_accumulator(sources.of_lookups(bags.per_sample_weights->reshape({-1})));
    }
    out = zeros.scatter_add(0, sources.of_lookups(lookups), at::where(sources.is_empty, 0, values));
  } else {
    out = zeros.index_add(
        0, lookups,
        decompose_sparse_values(grad, bags, num_weights, scale_grad_by_freq, mode, padding_idx));
  }
  return out.to(grad_output.scalar_type());
}

at::Tensor decompose_per_sample_weights_backward(const at::Tensor& grad_output,
                                                 const at::Tensor& weight, const BagArguments& bags,
                                                 const OptionalTensor& positions, int64_t mode,
                                                 const c10::SymInt& padding_idx) {
  const at::Tensor grad = to_accumulator(grad_output), table = to_accumulator(weight);
  const at::Tensor lookups = bags.indices.reshape({-1}).to(at::kLong);
  at::Tensor out;
  if (positions) {
    const MaxSources sources = max_sources(*positions);
    const at::Tensor products = grad * table.gather(0, sources.of_lookups(lookups));
    out = at::zeros_symint({lookups.sym_size(0)}, grad.options())
              .index_add(0, sources.lookup.reshape({-1}),
                         at::where(sources.is_empty, 0, products).reshape({-1}));
  } else {
    const at::Tensor bag_of = bag_of_lookup(bags);
    const at::Tensor keep = is_counted(lookups, padding_idx);
    at::Tensor dots = (grad.index_select(0, bag_of) * table.index_select(0, lookups)).sum(1, true);
    if (is_mode(mode, BagMode::Mean)) dots = divide_by_count(dots, keep, bag_of, bags);
    out = at::where(keep, dots.squeeze(1), 0);
  }
  return out.reshape_symint(bags.indices.sym_sizes());
}

}  // namespace myemb
