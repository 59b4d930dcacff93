// myemb::embedding_bag and its gradients, from C++, against bags written out in differentiable
// ATen.

#include <myemb/ops.h>

#include <optional>
#include <string>
#include <tuple>

#include "testing.h"

namespace myemb {
namespace {

using testing::close;
using testing::expect_error;
using testing::gradients;
using testing::leaf;
using testing::longs;

constexpr int64_t kSum = static_cast<int64_t>(BagMode::Sum);
constexpr int64_t kMean = static_cast<int64_t>(BagMode::Mean);
constexpr int64_t kMax = static_cast<int64_t>(BagMode::Max);

struct Call {
  at::Tensor weight;
  at::Tensor indices;
  std::optional<at::Tensor> offsets = std::nullopt;
  int64_t mode = kSum;
  std::optional<at::Tensor> per_sample_weights = std::nullopt;
  bool include_last_offset = false;
  std::optional<c10::SymInt> padding_idx = std::nullopt;
  bool scale_grad_by_freq = false;
  bool sparse = false;

  at::Tensor operator()() const {
    return myemb::embedding_bag(weight, indices, offsets, scale_grad_by_freq, mode, sparse,
                                per_sample_weights, include_last_offset, padding_idx);
  }
};

at::Tensor reduce(const at::Tensor& rows, int64_t mode) {
  if (rows.size(0) == 0) return at::zeros({rows.size(1)}, rows.options());
  if (mode == kMax) return std::get<0>(rows.max(0));
  return mode == kMean ? rows.mean(0) : rows.sum(0);
}

// The rows of all lookups; their gradients divided by how often the row is looked up, if so called.
at::Tensor rows_of(const Call& call, const at::Tensor& flat) {
  const auto rows = call.weight.index_select(0, flat);
  if (!call.scale_grad_by_freq) return rows;
  const auto counts = flat.bincount().index_select(0, flat).unsqueeze(1);
  return rows.detach() + (rows - rows.detach()) / counts;
}

at::Tensor reference(const Call& call) {
  const auto flat = call.indices.reshape(-1).to(at::kLong);
  auto rows = rows_of(call, flat);
  if (call.per_sample_weights) rows = rows * call.per_sample_weights->reshape({-1, 1});
  auto starts =
      call.offsets ? *call.offsets : at::arange(call.indices.size(0)) * call.indices.size(1);
  if (!call.include_last_offset) starts = at::cat({starts, longs({flat.numel()})});
  const auto kept =
      call.padding_idx ? flat != call.padding_idx->expect_int() : at::ones_like(flat).to(at::kBool);
  std::vector<at::Tensor> bags;
  for (int64_t bag = 0; bag + 1 < starts.numel(); ++bag) {
    const auto begin = starts[bag].item<int64_t>(), end = starts[bag + 1].item<int64_t>();
    const auto lookups = kept.slice(0, begin, end).nonzero().squeeze(1) + begin;
    bags.push_back(reduce(rows.index_select(0, lookups), call.mode));
  }
  return at::stack(bags);
}

enum class Layout { Matrix, Offsets, LastOffset };

class EmbeddingBagTest : public ::testing::TestWithParam<std::tuple<int64_t, Layout, bool, bool>> {
 protected:
  // Twelve lookups of a table of ten rows, some of them repeated, some bags empty.
  Call make_call(int64_t columns) const {
    const auto [mode, layout, weighted, padded] = GetParam();
    at::manual_seed(0);
    Call call{leaf({10, columns}), longs({3, 1, 3, 7, 3, 0, 9, 9, 2, 4, 3, 3})};
    call.mode = mode;
    if (layout == Layout::Matrix) call.indices = call.indices.view({4, 3});
    if (layout == Layout::Offsets) call.offsets = longs({0, 0, 3, 3, 8});
    if (layout == Layout::LastOffset) call.offsets = longs({0, 0, 3, 3, 8, 12});
    call.include_last_offset = layout == Layout::LastOffset;
    if (weighted)
      call.per_sample_weights = at::randn(call.indices.sizes(), at::kDouble).requires_grad_();
    if (padded) call.padding_idx = 3;
    return call;
  }

  static std::vector<at::Tensor> inputs_of(const Call& call) {
    if (!call.per_sample_weights) return {call.weight};
    return {call.weight, *call.per_sample_weights};
  }
};

TEST_P(EmbeddingBagTest, HasTheDerivativesOfItsDefinition) {
  for (const int64_t columns : {1, 5, 33}) {
    SCOPED_TRACE(columns);
    const Call call = make_call(columns);
    testing::expect_same_derivatives(call, [&] { return reference(call); }, inputs_of(call));
  }
}

TEST_P(EmbeddingBagTest, HasTheTangentsOfItsDefinition) {
  const Call call = make_call(5);
  const auto tangent = at::randn({10, 5}, at::kDouble);
  const auto along = [&](auto&& bag) {
    return testing::tangent_of(
        [&](const at::Tensor& dual) {
          Call moved = call;
          moved.weight = dual;
          return bag(moved);
        },
        call.weight, tangent);
  };
  EXPECT_TRUE(close(along([](const Call& moved) { return moved(); }), along(reference)));
}

TEST_P(EmbeddingBagTest, AgreesInEveryTypeOfTableAndIndex) {
  const at::NoGradGuard no_grad;
  const Call exact = make_call(20);
  for (const auto dtype : testing::kTableTypes) {
    for (const auto index_dtype : testing::kIndexTypes) {
      SCOPED_TRACE(c10::str(dtype, " ", index_dtype));
      Call call = exact;
      call.weight = exact.weight.to(dtype);
      call.indices = exact.indices.to(index_dtype);
      if (index_dtype == at::kInt && call.offsets) call.offsets = call.offsets->to(at::kInt);
      if (call.per_sample_weights) call.per_sample_weights = call.per_sample_weights->to(dtype);
      Call widened = exact;
      widened.weight = call.weight.to(at::kDouble);
      if (call.per_sample_weights)
        widened.per_sample_weights = call.per_sample_weights->to(at::kDouble);
      const auto output = call();
      EXPECT_EQ(output.scalar_type(), dtype);
      const double tolerance = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : 1e-2;
      EXPECT_TRUE(close(output, reference(widened), tolerance));
    }
  }
}

TEST_P(EmbeddingBagTest, FrequencyAndSparseGradients) {
  Call call = make_call(5);
  if (call.mode == kMax) return;  // refuses both: TextsOfRefusedArguments
  const auto upstream = at::randn_like(call().detach());
  for (const bool scale_grad_by_freq : {false, true}) {
    SCOPED_TRACE(scale_grad_by_freq);
    call.scale_grad_by_freq = scale_grad_by_freq;
    call.sparse = false;
    const auto expected = gradients(reference(call), {call.weight}, upstream)[0];
    EXPECT_TRUE(close(gradients(call(), {call.weight}, upstream)[0], expected));
    call.sparse = true;
    const auto sparse = gradients(call(), {call.weight}, upstream)[0];
    ASSERT_TRUE(sparse.is_sparse());
    EXPECT_EQ(sparse.sparse_dim(), 1);
    EXPECT_TRUE(close(sparse.to_dense(), expected));
  }
}

std::string name_of(const ::testing::TestParamInfo<EmbeddingBagTest::ParamType>& info) {
  const auto [mode, layout, weighted, padded] = info.param;
  const char* modes[] = {"Sum", "Mean", "Max"};
  const char* layouts[] = {"Matrix", "Offsets", "LastOffset"};
  return std::string(modes[mode]) + layouts[static_cast<int>(layout)] +
         (weighted ? "Weighted" : "") + (padded ? "Padded" : "");
}

INSTANTIATE_TEST_SUITE_P(All, EmbeddingBagTest,
                         ::testing::Combine(::testing::Values(kSum, kMean, kMax),
                                            ::testing::Values(Layout::Matrix, Layout::Offsets,
                                                              Layout::LastOffset),
                                            ::testing::Bool(), ::testing::Bool()),
                         name_of);

TEST(EmbeddingBag, EmptyInputs) {
  const auto weight = at::ones({10, 3});
  for (const int64_t mode : {kSum, kMean, kMax}) {
    SCOPED_TRACE(mode);
    EXPECT_TRUE(at::equal(Call{weight, at::empty({4, 0}, at::kLong), std::nullopt, mode}(),
                          at::zeros({4, 3})));
    EXPECT_TRUE(at::equal(Call{weight, at::empty({0, 4}, at::kLong), std::nullopt, mode}(),
                          at::zeros({0, 3})));
    EXPECT_TRUE(at::equal(Call{weight, longs({}), longs({0, 0}), mode}(), at::zeros({2, 3})));
    EXPECT_TRUE(at::equal(Call{weight, longs({}), longs({}), mode}(), at::zeros({0, 3})));
  }
}

TEST(EmbeddingBag, MaxSaysWhereEachMaximumCameFrom) {
  const auto weight = at::tensor({1., 5., 3., 2.}).view({2, 2});
  const auto [output, positions] =
      myemb::embedding_bag_max(weight, longs({0, 1, 1, 0}), longs({0, 2, 4}));
  EXPECT_TRUE(at::equal(output, at::tensor({3., 5., 3., 5., 0., 0.}).view({3, 2})));
  EXPECT_TRUE(at::equal(positions, longs({1, 0, 2, 3, -1, -1}).view({3, 2})));
}

TEST(EmbeddingBag, ReadsTablesWithStrides) {
  at::manual_seed(0);
  const auto storage = at::randn({12, 20}, at::kDouble);
  for (const auto& weight : {storage.t(), storage.slice(1, 3, 9), storage.slice(1, 0, 20, 3),
                             storage.slice(0, 0, 12, 2), storage[2].expand({6, 20})}) {
    for (const int64_t mode : {kSum, kMean, kMax}) {
      SCOPED_TRACE(c10::str(weight.sizes(), " by ", weight.strides(), " mode ", mode));
      const Call call{weight, longs({0, 5, 5, 3, 1, 2}), longs({0, 2}), mode};
      EXPECT_TRUE(close(call(), reference(call)));
    }
  }
}

TEST(EmbeddingBag, TakesSinglePrecisionWeightsWithA16BitTable) {
  at::manual_seed(0);
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    const auto weight = at::randn({10, 6}).to(dtype).requires_grad_();
    const auto per_sample_weights = at::randn({2, 3}).requires_grad_();
    const Call call{weight, longs({0, 5, 5, 3, 1, 2}).view({2, 3}), std::nullopt, kSum,
                    per_sample_weights};
    const Call exact{weight.to(at::kDouble), call.indices, std::nullopt, kSum,
                     per_sample_weights.to(at::kDouble)};
    const auto output = call();
    EXPECT_EQ(output.scalar_type(), dtype);
    EXPECT_TRUE(close(output, reference(exact), 1e-2));
    const auto grads = gradients(output, {weight, per_sample_weights}, at::ones_like(output));
    EXPECT_EQ(grads[0].scalar_type(), dtype);
    EXPECT_EQ(grads[1].scalar_type(), at::kFloat);
    EXPECT_TRUE(close(grads[1].view(-1),
                      weight.detach().to(at::kFloat).index_select(0, call.indices.view(-1)).sum(1),
                      1e-5));
  }
}

TEST(EmbeddingBag, TextsOfRefusedArguments) {
  const auto weight = at::ones({10, 3});
  const auto indices = longs({1, 2, 4, 5});
  const auto refused = [](std::string_view text, const Call& call) {
    SCOPED_TRACE(text);
    expect_error<c10::ValueError>(text, call);
    expect_error<c10::ValueError>(text, [&] {
      check_embedding_bag(call.weight, call.indices, call.offsets, call.mode,
                          call.scale_grad_by_freq, call.sparse, call.per_sample_weights,
                          call.include_last_offset, call.padding_idx);
    });
  };
  const auto offsets = longs({0, 2});
  refused("weight has to be a 2D Tensor, but got Tensor of dimension 1",
          {at::ones({3}), indices, offsets});
  refused("input has to be 1D or 2D Tensor, but got Tensor of dimension 3",
          {weight, indices.view({2, 2, 1})});
  refused("offsets has to be a 1D Tensor but got None", {weight, indices});
  refused("offsets has to be a 1D Tensor", {weight, indices, offsets.view({1, 2})});
  refused("if input is 2D, then offsets has to be None", {weight, indices.view({2, 2}), offsets});
  refused(
      "embedding_bag: If per_sample_weights (torch.Size([3])) is not None, then it must have the "
      "same shape "
      "as the input (torch.Size([4]))",
      {weight, indices, offsets, kSum, at::ones({3})});
  Call max{weight, indices, offsets, kMax};
  max.scale_grad_by_freq = true;
  refused("max mode does not support scaling the gradient by the frequency", max);
  max.scale_grad_by_freq = false;
  max.sparse = true;
  refused("max mode does not support sparse weights", max);
  refused("mode has to be one of sum, mean or max", {weight, indices, offsets, 3});
}

TEST(EmbeddingBag, RefusesOffsetsThatAreNotOffsets) {
  const auto weight = at::ones({10, 3});
  const auto indices = longs({1, 2, 4, 5});
  Call last{weight, indices, longs({0, 2, 3})};
  last.include_last_offset = true;
  Call none = last;
  none.offsets = longs({});
  for (const auto& call :
       {Call{weight, indices, longs({1, 2})}, Call{weight, indices, longs({0, 3, 2})},
        Call{weight, indices, longs({0, 5})}, Call{weight, indices, longs({0, -1})},
        Call{weight, indices, longs({})}, last, none}) {
    SCOPED_TRACE(*call.offsets);
    EXPECT_THROW(call(), c10::Error);
  }
  expect_error<c10::Error>(
      "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from "
      "position 0. However, got 1",
      Call{weight, indices, longs({1, 2})});
  expect_error<c10::Error>(
      "offsets[-1] can not be greater than input's length 4 but got offsets[-1] of 5",
      Call{weight, indices, longs({0, 5})});
}

TEST(EmbeddingBag, NamesTheIndexThatIsOutOfRange) {
  const auto weight = at::ones({10, 3}).requires_grad_();
  for (const int64_t mode : {kSum, kMean, kMax}) {
    for (const int64_t bad : {10, -1}) {
      SCOPED_TRACE(c10::str("mode ", mode, " index ", bad));
      expect_error<c10::Error>(c10::str("Index 3 of input takes value ", bad,
                                        " which is not in the valid range [0, 10)"),
                               Call{weight, longs({1, 2, 4, bad}), longs({0, 2}), mode});
    }
  }
}

// Without a forward call, which would have refused it.
TEST(EmbeddingBag, GradientsRefuseAnIndexThatIsOutOfRange) {
  const auto upstream = at::ones({2, 3});
  const auto offsets = longs({0, 2});
  for (const int64_t bad : {10, -1}) {
    SCOPED_TRACE(bad);
    const auto indices = longs({1, 2, 4, bad});
    EXPECT_THROW(embedding_bag_sparse_backward(upstream, indices, offsets, 10, false, kSum,
                                               std::nullopt, false, std::nullopt),
                 c10::Error);
    EXPECT_THROW(embedding_bag_dense_backward(upstream, indices, offsets, std::nullopt, 10, false,
                                              kSum, std::nullopt, false, std::nullopt),
                 c10::Error);
  }
}

TEST(EmbeddingBag, WorksOnMetaTensors) {
  const auto indices = at::empty({4, 5}, at::dtype(at::kLong).device(at::kMeta));
  EXPECT_EQ(myemb::embedding_bag(at::empty({10, 3}, at::kMeta), indices).sizes(),
            at::IntArrayRef({4, 3}));
}

}  // namespace
}  // namespace myemb
