// myemb::embedding and its gradients, from C++.

#include <myemb/ops.h>

#include "testing.h"

namespace myemb {
namespace {

using testing::close;
using testing::expect_error;
using testing::expect_same_derivatives;
using testing::gradients;
using testing::leaf;
using testing::longs;

at::Tensor table(int64_t rows, int64_t columns) {
  return at::arange(rows * columns, at::kFloat).view({rows, columns});
}

TEST(Embedding, CopiesRowsOfEveryDtype) {
  const auto indices = longs({3, 0, 3, 9});
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kByte, at::kInt,
                           at::kLong, at::kBool, at::kComplexFloat, at::kComplexDouble}) {
    SCOPED_TRACE(c10::toString(dtype));
    const auto weight = table(10, 7).to(dtype);
    const auto output = myemb::embedding(weight, indices);
    EXPECT_EQ(output.scalar_type(), dtype);
    EXPECT_TRUE(at::equal(output, weight.index_select(0, indices)));
  }
}

TEST(Embedding, TakesIndicesOfEveryTypeAndShape) {
  const auto weight = table(10, 3);
  for (const auto dtype : testing::kIndexTypes) {
    SCOPED_TRACE(c10::toString(dtype));
    for (const at::IntArrayRef shape :
         std::vector<std::vector<int64_t>>{{}, {0}, {2, 0}, {4}, {2, 1, 3}}) {
      const auto indices = at::randint(0, 10, shape, at::kLong);
      const auto expected = at::embedding(weight, indices);
      EXPECT_TRUE(at::equal(myemb::embedding(weight, indices.to(dtype)), expected)) << shape;
    }
  }
}

TEST(Embedding, HasTheDerivativesOfAten) {
  at::manual_seed(0);
  const auto weight = leaf({10, 5});
  const auto indices = longs({4, 2, 4, 0, 9, 4, 2}).view({7, 1});
  for (const int64_t padding_idx : {-1, 0, 4}) {
    SCOPED_TRACE(padding_idx);
    expect_same_derivatives([&] { return myemb::embedding(weight, indices, padding_idx); },
                            [&] { return at::embedding(weight, indices, padding_idx); }, {weight});
  }
}

// Not against aten: its second derivative leaves the counts out.
TEST(Embedding, ScalesGradientsByFrequency) {
  at::manual_seed(0);
  const auto weight = leaf({10, 5});
  const auto indices = longs({4, 2, 4, 0, 9, 4, 2});
  const auto counts = at::tensor({3., 2., 3., 1., 1., 3., 2.}, at::kDouble).unsqueeze(1);
  expect_same_derivatives([&] { return myemb::embedding(weight, indices, -1, true); },
                          [&] {
                            const auto rows = weight.index_select(0, indices);
                            return rows.detach() + (rows - rows.detach()) / counts;
                          },
                          {weight});
}

TEST(Embedding, SparseGradientIsTheDenseOne) {
  at::manual_seed(0);
  const auto weight = leaf({10, 5});
  const auto indices = longs({4, 2, 4, 0, 9, 4, 2});
  const auto upstream = at::randn({7, 5}, at::kDouble);
  for (const int64_t padding_idx : {-1, 4}) {
    for (const bool scale_grad_by_freq : {false, true}) {  // aten refuses the second
      SCOPED_TRACE(c10::str("padding_idx ", padding_idx, " freq ", scale_grad_by_freq));
      const auto dense = gradients(
          myemb::embedding(weight, indices, padding_idx, scale_grad_by_freq), {weight}, upstream);
      const auto sparse = gradients(
          myemb::embedding(weight, indices, padding_idx, scale_grad_by_freq, /*sparse=*/true),
          {weight}, upstream);
      ASSERT_TRUE(sparse[0].is_sparse());
      EXPECT_EQ(sparse[0].sparse_dim(), 1);
      EXPECT_EQ(sparse[0].dense_dim(), 1);
      EXPECT_TRUE(close(sparse[0].to_dense(), dense[0]));
    }
  }
}

TEST(Embedding, SparseGradientHasAnEntryPerLookupInInputOrder) {
  const auto weight = leaf({10, 2});
  const auto grad =
      gradients(myemb::embedding(weight, longs({4, 2, 4}), -1, false, /*sparse=*/true), {weight},
                at::ones({3, 2}, at::kDouble))[0];
  EXPECT_FALSE(grad.is_coalesced());
  EXPECT_TRUE(at::equal(grad._indices(), longs({4, 2, 4}).view({1, 3})));
}

TEST(Embedding, HasATangentInForwardMode) {
  at::manual_seed(0);
  const auto weight = at::randn({10, 5}, at::kDouble), tangent = at::randn({10, 5}, at::kDouble);
  const auto indices = longs({4, 2, 4});
  const auto found = testing::tangent_of(
      [&](const at::Tensor& dual) { return myemb::embedding(dual, indices); }, weight, tangent);
  EXPECT_TRUE(at::equal(found, tangent.index_select(0, indices)));
}

TEST(Embedding, ReadsTablesWithStrides) {
  at::manual_seed(0);
  const auto storage = at::randn({12, 20}, at::kDouble);
  const auto indices = longs({0, 5, 5, 3});
  for (const auto& weight :
       {storage.t(), storage.slice(1, 3, 9), storage.slice(1, 0, 20, 3), storage.slice(0, 0, 12, 2),
        storage[2].expand({6, 20}), storage.slice(1, 0, 1).expand({12, 4})}) {
    SCOPED_TRACE(c10::str(weight.sizes(), " by ", weight.strides()));
    const auto output = myemb::embedding(weight, indices);
    EXPECT_TRUE(output.is_contiguous());
    EXPECT_TRUE(at::equal(output, weight.index_select(0, indices)));
  }
  const auto strided = at::stack({indices, indices}, 1).select(1, 0);
  EXPECT_TRUE(at::equal(myemb::embedding(storage, strided), storage.index_select(0, indices)));
}

TEST(Embedding, TakesAnExpandedGradient) {
  const auto weight = leaf({4, 3});
  myemb::embedding(weight, longs({1, 1, 2})).sum().backward();  // its gradient has strides of zero
  EXPECT_TRUE(close(weight.grad(), at::tensor({0., 2., 1., 0.}).view({4, 1}).expand({4, 3})));
}

TEST(Embedding, EmptyTablesAndRows) {
  EXPECT_EQ(myemb::embedding(at::empty({10, 0}), longs({1, 2})).sizes(), at::IntArrayRef({2, 0}));
  EXPECT_EQ(myemb::embedding(at::empty({0, 3}), longs({})).sizes(), at::IntArrayRef({0, 3}));
  const auto weight = leaf({10, 0});
  EXPECT_EQ(gradients(myemb::embedding(weight, longs({1, 2})), {weight},
                      at::empty({2, 0}, at::kDouble))[0]
                .sizes(),
            weight.sizes());
}

TEST(Embedding, NamesTheIndexThatIsOutOfRange) {
  const auto weight = table(10, 3);
  for (const int64_t bad : {10, -1, 1 << 20}) {
    const auto indices = longs({1, 2, 3, bad, bad});
    const auto text = c10::str("index ", bad, " at position 3 is not in [0, 10)");
    expect_error<c10::IndexError>(text, [&] { myemb::embedding(weight, indices); });
    expect_error<c10::IndexError>("index out of range in self", [&] {
      myemb::embedding_dense_backward(at::ones({5, 3}), indices, 10);
    });
  }
}

TEST(Embedding, RefusesWhatAtenRefuses) {
  expect_error<c10::Error>("'weight' must be 2-D",
                           [] { myemb::embedding(at::ones({3}), longs({0})); });
  expect_error<c10::Error>(
      "Expected tensor for argument #1 'indices' to have one of the following scalar types",
      [] { myemb::embedding(at::ones({3, 2}), at::zeros({1}, at::kFloat)); });
}

TEST(Embedding, WorksOnMetaTensors) {
  const auto output = myemb::embedding(at::empty({10, 3}, at::kMeta),
                                       at::empty({4, 5}, at::dtype(at::kLong).device(at::kMeta)));
  EXPECT_TRUE(output.is_meta());
  EXPECT_EQ(output.sizes(), at::IntArrayRef({4, 5, 3}));
}

}  // namespace
}  // namespace myemb
