"""Many tables in one call: what one call per feature gives, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import reference
import torch
from inputs import FLOAT_DTYPES, INDEX_DTYPES, MODES, assert_near
from tables import Call, make_call, torch_bag
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from myemb.functional import embedding_bag_tables

SHARED = (0, 2, 1, 0, 3, 2)  # table 0 is read by features 0 and 3
ops = torch.ops.myemb


def plain_reference(lookups: Tensor, weight: Tensor, starts: Tensor, **options: Any) -> Tensor:
    return reference.bag(weight, lookups, starts, **options)


def equal(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
def test_whole_numbers_are_exact(index_dtype: torch.dtype, padding: bool) -> None:
    for features in (None, SHARED, (5,), (1, 1, 1)):
        call = make_call(
            modes=("sum", "max") if padding else MODES,  # without padding a mean is of four
            features=features,
            whole=True,
            index_dtype=index_dtype,
            padding=padding,
        )
        upstream = call.upstream(whole=True)
        actual = call.run(call.together, upstream)
        equal(actual, call.run(call.apart, upstream, bag=torch_bag))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients(mode: str, dtype: torch.dtype) -> None:
    call = make_call(modes=(mode,), dtypes=(dtype,), features=SHARED, num_bags=50, padding=True)
    upstream = call.upstream()
    actual = call.run(call.together, upstream)
    exact = dataclasses.replace(call.double())
    expected = exact.run(exact.apart, upstream.to(dtype).double(), bag=torch_bag)
    for ours, theirs in zip(actual, expected, strict=True):
        if theirs is not None:
            assert_near(ours, theirs, terms=300)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("factors", [None, torch.float32])
def test_the_bits_are_those_of_the_single_calls(factors: torch.dtype | None, threads: int) -> None:
    torch.set_num_threads(threads)
    for dtypes in ((torch.float32,), (torch.float16, torch.float32, torch.bfloat16)):
        for longest in (3, 900):  # more than a chunk of lookups in a bag, and of a row
            call = make_call(
                widths=(1, 19, 64, 130, 8, 16),
                dtypes=dtypes,
                num_bags=60,
                longest=longest,
                factors=factors,
                padding=True,
            )
            upstream = call.upstream()
            equal(call.run(call.together, upstream), call.run(call.apart, upstream))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_per_sample_weights(mode: str, dtype: torch.dtype) -> None:
    call = make_call(
        widths=(3, 33, 7, 2),
        modes=(mode,),
        dtypes=(dtype,),
        features=SHARED[:5],
        factors=dtype,
        padding=True,
    )
    upstream = call.upstream().to(dtype)
    actual = call.run(call.together, upstream)
    exact = call.double()
    expected = exact.run(exact.apart, upstream.double(), bag=plain_reference)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_near(ours, theirs, terms=300)


def test_dtypes_promote_as_in_cat() -> None:
    call = make_call(widths=(3, 5, 4), dtypes=(torch.float16, torch.bfloat16), features=(1, 0, 2))
    assert call.together(call.weights, None).dtype == torch.float32
    call = make_call(widths=(3, 5, 4), dtypes=(torch.float16, torch.float64), features=(0, 2))
    assert call.together(call.weights, None).dtype == torch.float16  # table 1 is not read


@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_gradients(weighted: bool) -> None:
    call = make_call(
        modes=("sum", "mean"),
        features=SHARED,
        padding=True,
        factors=torch.float32 if weighted else None,
    )
    upstream = call.upstream()
    expected = call.run(call.together, upstream)
    call.sparse = [True, False, True, True, False, True]
    weights = [weight.requires_grad_() for weight in call.weights]
    grads = torch.autograd.grad(
        call.together(weights, call.factors), weights[:4], upstream, allow_unused=True
    )
    assert [grad.is_sparse for grad in grads] == call.sparse[:4]
    starts = call.starts[:: call.num_bags].tolist()
    of_table_2 = [call.lookups[starts[f] : starts[f + 1]] for f in (1, 5)]
    assert torch.equal(grads[2]._indices()[0], torch.cat(of_table_2))  # no padding there
    for grad, dense in zip(grads, expected[1:], strict=False):
        torch.testing.assert_close(grad.to_dense(), dense)


def test_a_table_that_no_feature_reads_has_no_gradient() -> None:
    call = make_call(widths=(2, 3, 4), features=(2, 0))
    assert call.run(call.together, call.upstream())[2] is None


@pytest.mark.parametrize("layout", ["expanded", "transposed", "columns of a larger one"])
def test_layouts_of_the_upstream_gradient(layout: str) -> None:
    call = make_call(widths=(3, 8, 5), features=(0, 1, 2, 1))
    upstream = call.upstream()
    other = {
        "expanded": upstream[:1].expand_as(upstream),
        "transposed": upstream.t().contiguous().t(),
        "columns of a larger one": torch.cat([upstream, upstream], 1)[:, : upstream.size(1)],
    }[layout]
    equal(call.run(call.together, other), call.run(call.together, other.contiguous()))


def test_layouts_of_the_tables() -> None:
    call = make_call(widths=(3, 8, 5))
    expected = call.together(call.weights, None)
    strided = [torch.stack([w, w], -1)[..., 0] for w in call.weights]
    assert torch.equal(call.together(strided, None), expected)
    rows = [torch.cat([w, w], 1)[:, : w.size(1)] for w in call.weights]
    assert torch.equal(call.together(rows, None), expected)


@pytest.mark.parametrize("num_bags", [0, 1, 5])
def test_nothing_to_look_up(num_bags: int) -> None:
    call = make_call(widths=(3, 2, 0), num_bags=num_bags, longest=0)
    results = call.run(call.together, call.upstream())
    assert results[0].shape == (num_bags, 5)
    assert not any(result.any() for result in results)


def test_tables_without_rows_or_columns() -> None:
    weights = [torch.randn(0, 3), torch.randn(4, 0), torch.randn(2, 2)]
    starts = torch.tensor([0, 0, 0, 1, 2, 3, 3])
    out = embedding_bag_tables(torch.tensor([3, 0, 1]), weights, starts)
    assert torch.equal(
        out,
        torch.tensor([[0.0] * 5] * 2).index_copy(
            0, torch.tensor([0]), torch.cat([torch.zeros(3), weights[2][1]])[None]
        ),
    )


def double_call(modes: Sequence[str], weighted: bool) -> Call:
    return make_call(
        widths=(2, 3, 1),
        modes=modes,
        dtypes=(torch.float64,),
        features=(0, 1, 2, 0),
        num_bags=3,
        longest=3,
        padding=True,
        factors=torch.float64 if weighted else None,
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("modes", [("sum",), ("mean",), ("max",), MODES])
def test_derivatives(modes: Sequence[str], weighted: bool) -> None:
    call = double_call(modes, weighted)
    leaves = [weight.requires_grad_() for weight in call.weights]
    if call.factors is not None:
        leaves.append(call.factors.requires_grad_())

    def function(*inputs: Tensor) -> Tensor:
        return call.together(inputs[:3], inputs[3] if weighted else None)

    assert gradcheck(function, leaves, check_forward_ad=True)
    assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("modes", [("sum", "mean"), MODES])
def test_transforms(modes: Sequence[str]) -> None:
    call = double_call(modes, weighted=True)
    upstream = call.upstream().double()

    def loss(weights: list[Tensor], factors: Tensor) -> Tensor:
        return (call.together(weights, factors) * upstream).sum()

    grads = torch.func.grad(loss, (0, 1))(call.weights, call.factors)
    expected = call.run(call.together, upstream)[1:]
    for ours, theirs in zip([*grads[0], grads[1]], expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    stacked = [torch.stack([weight, 2 * weight]) for weight in call.weights]
    both = torch.vmap(lambda *weights: call.together(weights, call.factors))(*stacked)
    torch.testing.assert_close(both[0], call.together(call.weights, call.factors))
    torch.testing.assert_close(both[1], call.together([2 * w for w in call.weights], call.factors))


def test_forward_mode_with_a_tangent_of_one_table() -> None:
    call = double_call(("mean",), weighted=False)
    tangent = torch.randn_like(call.weights[1])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(call.weights[1], tangent)
        out = forward_ad.unpack_dual(call.together([call.weights[0], dual, call.weights[2]], None))
    zeros = [torch.zeros_like(weight) for weight in call.weights]
    torch.testing.assert_close(out.tangent, call.together([zeros[0], tangent, zeros[2]], None))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_compile(weighted: bool, dynamic: bool) -> None:
    call = make_call(
        widths=(3, 8, 5),
        factors=torch.float32 if weighted else None,
        padding=True,
        features=SHARED[:4],
    )
    upstream = call.upstream()
    compiled = torch.compile(
        call.together, fullgraph=True, backend="aot_eager", dynamic=dynamic or None
    )
    equal(call.run(compiled, upstream), call.run(call.together, upstream))


def refuse(error: type[Exception], message: str, call: Call, **changes: Any) -> None:
    arguments = {
        "input": call.lookups,
        "weights": call.weights,
        "offsets": call.starts,
        "feature_tables": call.features,
        "mode": call.modes,
    } | changes
    before = [weight.clone() for weight in call.weights]
    for max_norm in (None, 0.1):
        with pytest.raises(error, match=message):
            embedding_bag_tables(**arguments, max_norm=max_norm)
        equal(call.weights, before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bad", [-1, 26, 1 << 40])
def test_a_bad_index_is_named(bad: int, threads: int) -> None:
    torch.set_num_threads(threads)
    for num_bags in (4, 4000):
        call = make_call(widths=(3, 8, 5, 2), features=(0, 1, 3, 2), num_bags=num_bags)
        position = int(call.starts[2 * num_bags]) + 1
        call.lookups[position] = bad
        call.lookups[-1] = -7  # a later one
        message = (
            rf"Index {position} of input takes value {bad} which is not in the valid range "
            r"\[0, 26\) of table 3, which feature 2 reads"
        )
        refuse(RuntimeError, message, call)
        with pytest.raises(RuntimeError, match=message):
            ops.embedding_bag_tables_backward(
                torch.randn(num_bags, 18),
                call.lookups,
                call.starts,
                None,
                [5, 12, 19, 26],
                [3, 8, 5, 2],
                [6] * 4,
                call.features,
                None,
                None,
                None,
                [],
                [0, 1, 2, 3],
            )


def test_bad_arguments() -> None:
    call = make_call(widths=(3, 8), features=(0, 1), num_bags=3, longest=4)
    starts, size = call.starts, call.lookups.numel()
    late, early, falling = starts + 1, starts.clone(), starts.clone()
    late[-1], early[-1] = size, size - 1
    falling[2] = starts[3] + 1
    for offsets, message in (
        (late, r"offsets\[0\] has to be 0"),
        (early, r"offsets"),
        (falling, "offsets must not decrease"),
    ):
        refuse(RuntimeError, message, call, offsets=offsets)
    refuse(
        ValueError,
        r"offsets of 2 features .* 2 \* B \+ 1 elements, but has 6",
        call,
        offsets=starts[:-1],
    )
    refuse(ValueError, "offsets .* but has 0", call, offsets=starts[:0])
    refuse(ValueError, "offsets has to be a 1D Tensor", call, offsets=starts.view(1, -1))
    refuse(ValueError, "indices has to be a 1D Tensor", call, input=call.lookups.view(1, -1))
    refuse(ValueError, "there has to be a feature", call, feature_tables=[])
    refuse(
        ValueError,
        r"feature_tables\[1\] is 2, which is not a table in \[0, 2\)",
        call,
        feature_tables=[0, 2],
    )
    refuse(ValueError, "mode has to be one of sum, mean or max", call, mode="min")
    refuse(ValueError, "mode has 1 values for 2 tables", call, mode=["sum"])
    refuse(ValueError, "max mode does not support sparse", call, mode="max", sparse=True)
    refuse(
        AssertionError, "Padding_idx must be within num_embeddings", call, padding_idx=[None, 12]
    )
    refuse(RuntimeError, "indices", call, input=call.lookups.float())
    refuse(RuntimeError, "offsets", call, offsets=starts.float())
    refuse(ValueError, "per_sample_weights", call, per_sample_weights=torch.ones(size + 1))
    refuse(
        RuntimeError,
        "per_sample_weights are Double",
        call,
        per_sample_weights=torch.ones(size).double(),
    )
    refuse(
        ValueError,
        r"weights\[1\] has to be a 2D Tensor",
        call,
        weights=[call.weights[0], torch.ones(3)],
    )
    refuse(RuntimeError, "weights", call, weights=[call.weights[0], torch.ones(12, 8).long()])


def test_max_norm_of_each_table() -> None:
    norms = [0.5, None, 0.25, 1.0]
    call = make_call(widths=(3, 8, 5, 2), features=(0, 1, 2, 3, 2), num_bags=9)
    tables = [weight.clone() for weight in call.weights]
    out = embedding_bag_tables(
        call.lookups,
        tables,
        call.starts,
        call.features,
        mode=call.modes,
        max_norm=norms,
        norm_type=[2.0, 2.0, 1.0, 2.0],
    )
    starts = call.starts[:: call.num_bags].tolist()
    expected = [weight.clone() for weight in call.weights]
    for feature, table in enumerate(call.features):
        if norms[table] is not None:
            rows = call.lookups[starts[feature] : starts[feature + 1]]
            torch.embedding_renorm_(expected[table], rows, norms[table], 1.0 if table == 2 else 2.0)
    for ours, theirs in zip(tables, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(out, call.apart(tables, None))


def test_a_table_changed_in_place_is_noticed_where_it_is_needed() -> None:
    call = make_call(widths=(3, 8), factors=torch.float32)
    weights = [weight.requires_grad_() for weight in call.weights]
    out = call.together(weights, call.factors)
    with torch.no_grad():
        weights[0].add_(1)
    out.sum().backward()  # the gradient of a table does not depend on it
    out = call.together(weights, call.factors.requires_grad_())
    with torch.no_grad():
        weights[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
