"""torch.func over embedding_bag_tables, and over what changes tables in place."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from reference import vmap_loop
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.autograd.functional import jacobian
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from myemb.functional import embedding, embedding_bag, embedding_bag_tables, embedding_renorm_

pytestmark = pytest.mark.usefixtures("no_vmap_fallback")
BATCH, LOOKUPS, BAGS = 3, 8, 2
ROWS, WIDTHS, FEATURES = (5, 6), (3, 2), [0, 1, 0]
MODES = [["sum", "mean"], ["max", "sum"]]
PADDING = [1, None]
ops = torch.ops.myemb
modes = pytest.mark.parametrize("modes", MODES)


def tables(*batch: int) -> list[Tensor]:
    """Distinct values, so that a small step never changes which of them is the largest."""
    made = []
    for rows, width in zip(ROWS, WIDTHS, strict=True):
        shape = (*batch, rows, width)
        size = torch.Size(shape).numel()
        made.append((torch.randperm(size).double() / size - 0.5).view(shape))
    return made


def lookups(*batch: int) -> Tensor:
    return torch.randint(min(ROWS), (*batch, LOOKUPS))


def offsets(*batch: int) -> Tensor:
    starts = torch.randint(LOOKUPS + 1, (*batch, BAGS * len(FEATURES) + 1)).sort(-1).values
    starts[..., 0], starts[..., -1] = 0, LOOKUPS
    return starts


def factors(*batch: int) -> Tensor:
    return torch.rand(*batch, LOOKUPS, dtype=torch.float64) + 0.5


def ours(modes: list[str]) -> Callable[..., Tensor]:
    def function(
        first: Tensor, second: Tensor, rows: Tensor, starts: Tensor, weights: Tensor
    ) -> Tensor:
        return embedding_bag_tables(
            rows,
            [first, second],
            starts,
            feature_tables=FEATURES,
            mode=modes,
            per_sample_weights=weights,
            padding_idx=PADDING,
        )

    return function


def theirs(modes: list[str]) -> Callable[..., Tensor]:
    """The same from the reference, one feature after the other."""

    def function(
        first: Tensor, second: Tensor, rows: Tensor, starts: Tensor, weights: Tensor
    ) -> Tensor:
        outputs = []
        for feature, table in enumerate(FEATURES):
            own = starts[feature * BAGS : (feature + 1) * BAGS + 1]
            cut = slice(int(own[0]), int(own[-1]))
            bags = reference.bag(
                (first, second)[table],
                rows[cut],
                own - own[0],
                modes[table],
                weights[cut],
                include_last_offset=True,
                padding_idx=PADDING[table],
            )
            outputs.append(bags)
        return torch.cat(outputs, 1)

    return function


def batch(dims: tuple[int | None, ...]) -> list[Tensor]:
    """Two tables, lookups, offsets and factors, batched along these dimensions."""
    plain = [*tables(), lookups(), offsets(), factors()]
    stacked = [*tables(BATCH), lookups(BATCH), offsets(BATCH), factors(BATCH)]
    return [
        alone if dim is None else together.movedim(0, dim)
        for alone, together, dim in zip(plain, stacked, dims, strict=True)
    ]


def cubes(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *arguments: function(*arguments).pow(3).sum()


WANTED = (0, 1, 4)
DIMS = [dims for dims in itertools.product((None, 0), repeat=5) if dims != (None,) * 5]
DIMS += [(2, 1, 1, 1, 1), (None, 2, None, 1, None)]


@modes
@pytest.mark.parametrize("dims", DIMS)
def test_vmap_is_a_loop(modes: list[str], dims: tuple[int | None, ...]) -> None:
    arguments = batch(dims)
    leaves = [each.requires_grad_() for each in arguments if each.is_floating_point()]
    actual = vmap(ours(modes), dims)(*arguments)
    expected = vmap_loop(theirs(modes), dims, *arguments)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
    )


@modes
@pytest.mark.parametrize(
    "dims", [(None, None, 0, 0, None), (0, None, None, None, 0), (0, 1, 0, 1, 0)]
)
def test_transforms_under_vmap(modes: list[str], dims: tuple[int | None, ...]) -> None:
    arguments = batch(dims)
    of_each = grad(cubes(ours(modes)), WANTED)
    expected = vmap_loop(grad(cubes(theirs(modes)), WANTED), dims, *arguments)
    torch.testing.assert_close(vmap(of_each, dims)(*arguments), expected)

    def tangent(function: Callable[..., Tensor]) -> Callable[..., Any]:
        def pushed(*values: Tensor) -> Any:
            first, second, rows, starts, weights = values
            return jvp(
                lambda *leaves: function(leaves[0], leaves[1], rows, starts, leaves[2]),
                (first, second, weights),
                (first.sin(), second.cos(), weights.sin()),
            )

        return pushed

    torch.testing.assert_close(
        vmap(tangent(ours(modes)), dims)(*arguments),
        vmap_loop(tangent(theirs(modes)), dims, *arguments),
    )
    second = hessian(cubes(ours(modes)), (0, 4))
    expected = vmap_loop(jacrev(jacrev(cubes(theirs(modes)), (0, 4)), (0, 4)), dims, *arguments)
    torch.testing.assert_close(vmap(second, dims)(*arguments), expected)


@modes
def test_nested_vmap_and_chunks(modes: list[str]) -> None:
    (first, second), rows = tables(BATCH), lookups(2)
    starts, weights = offsets(), factors()

    def call(first: Tensor, rows: Tensor) -> Tensor:
        return ours(modes)(first, second[0], rows, starts, weights)

    actual = vmap(vmap(call, (0, None)), (None, 0), chunk_size=1)(first, rows)
    for i, j in itertools.product(range(2), range(BATCH)):
        expected = theirs(modes)(first[j], second[0], rows[i], starts, weights)
        torch.testing.assert_close(actual[i, j], expected)


@modes
def test_jacobians(modes: list[str]) -> None:
    """Forwards, backwards and with all gradients in one batch of autograd's own vmap."""
    rows, starts = lookups(), offsets()
    leaves = (*tables(), factors())

    def call(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        return ours(modes)(first, second, rows, starts, weights)

    expected = jacobian(
        lambda first, second, weights: theirs(modes)(first, second, rows, starts, weights), leaves
    )
    torch.testing.assert_close(jacrev(call, (0, 1, 2))(*leaves), expected)
    torch.testing.assert_close(jacfwd(call, (0, 1, 2))(*leaves), expected)
    torch.testing.assert_close(jacobian(call, leaves, vectorize=True), expected)
    forwards = jacobian(call, leaves, vectorize=True, strategy="forward-mode")
    torch.testing.assert_close(forwards, expected)


@modes
def test_gradcheck(modes: list[str]) -> None:
    rows, starts = lookups(), offsets()
    leaves = [leaf.requires_grad_() for leaf in (*tables(), factors())]

    def call(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        return ours(modes)(first, second, rows, starts, weights)

    assert gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, leaves, check_batched_grad=True, check_fwd_over_rev=True)


def test_sparse_gradients_are_dense_under_a_transform() -> None:
    (first, second), rows, starts = tables(), lookups(), offsets()

    def call(first: Tensor, sparse: bool) -> Tensor:
        bags = embedding_bag_tables(
            rows, [first, second], starts, feature_tables=FEATURES, mode="sum", sparse=sparse
        )
        matrix = rows.view(2, 4)
        bag = embedding_bag(matrix, first, mode="sum", sparse=sparse)
        return bags.pow(2).sum() + bag.pow(2).sum() + embedding(rows, first, sparse=sparse).sum()

    actual = grad(call)(first, True)
    assert actual.layout is torch.strided
    torch.testing.assert_close(actual, grad(call)(first, False))
    leaf = first.clone().requires_grad_()
    vmap(lambda rows: embedding_bag_tables(rows, [leaf, second], starts, FEATURES, "sum", True))(
        lookups(BATCH)
    ).sum().backward()
    assert leaf.grad is not None and leaf.grad.is_sparse  # the table is shared


def test_refused_lookups_stay_refused() -> None:
    (first, second), rows, starts, weights = tables(), lookups(BATCH), offsets(BATCH), factors()
    call = ours(MODES[0])
    with pytest.raises(RuntimeError, match="value 99 which is not in the valid range"):
        bad = rows.clone()
        bad[1, 0] = 99
        vmap(call, (None, None, 0, None, None))(first, second, bad, starts[0], weights)
    with pytest.raises(RuntimeError, match=r"offsets\[0\] has to be 0"):
        vmap(call, (None, None, None, 0, None))(first, second, rows[0], starts.flip(1), weights)
    with pytest.raises(ValueError, match="indices has to be a 1D Tensor"):
        vmap(call, (None, None, 0, None, None))(first, second, rows[..., None], starts[0], weights)


def test_a_table_without_rows_is_differentiated_where_nothing_is_looked_up() -> None:
    second, rows = tables()[1], lookups()
    starts = torch.tensor([0, 0, 3, 8])

    def call(first: Tensor, second: Tensor) -> Tensor:
        return embedding_bag_tables(rows, [first, second, second], starts, mode="sum")

    first = torch.zeros(0, 3, dtype=torch.float64)
    tangents = (torch.zeros_like(first), torch.randn_like(second))
    actual = jvp(call, (first, second), tangents)[1]
    torch.testing.assert_close(actual[0, 3:5], tangents[1][rows[:3]].sum(0))


UPDATE: dict[str, Any] = {"rule": "sgd", "lr": 0.1}


def step(weight: Tensor, gradient: Tensor) -> None:
    ops.embedding_update_(weight, [], gradient, torch.tensor([[1], [2]]), **UPDATE)


def step_of_tables(weight: Tensor, gradient: Tensor) -> None:
    starts = torch.tensor([0, 1, 2])
    ops.embedding_bag_tables_update_(
        [weight], [], gradient, torch.tensor([1, 2]), starts, *[None] * 5, [0], **UPDATE
    )


@pytest.mark.parametrize("update", [step, step_of_tables])
def test_steps_are_refused_under_a_transform(update: Callable[[Tensor, Tensor], None]) -> None:
    """As PyTorch refuses other operations in place on a captured tensor."""
    weight, gradient = torch.randn(4, 3), torch.randn(2, 3)
    before = weight.clone()

    def captured(gradient: Tensor) -> Tensor:
        update(weight, gradient)
        return gradient.sum()

    for transformed in (
        grad(captured),
        lambda gradient: jvp(captured, (gradient,), (gradient,)),
        lambda gradient: vmap(captured)(torch.stack([gradient] * 3)),
    ):
        with pytest.raises(NotImplementedError, match="changes its table in place"):
            transformed(gradient)
    with pytest.raises(NotImplementedError, match="changes its table in place"):
        vmap(lambda weight: captured_table(update, weight, gradient))(torch.stack([weight] * 3))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward AD"):
        update(forward_ad.make_dual(weight, weight), gradient)
    assert torch.equal(weight, before)


def captured_table(
    update: Callable[[Tensor, Tensor], None], weight: Tensor, gradient: Tensor
) -> Tensor:
    update(weight, gradient)
    return weight


def test_a_renorm_of_a_tangent_is_refused_as_by_pytorch() -> None:
    weight, rows = torch.randn(4, 3), torch.tensor([1])
    for function in (embedding_renorm_, torch.embedding_renorm_):
        with pytest.raises(NotImplementedError, match="forward AD with embedding_renorm_"):
            jvp(lambda w, f=function: f(w.clone(), rows, 1.0, 2.0), (weight,), (weight,))
        with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
            grad(lambda w, f=function: f(weight, rows, 1.0, 2.0).sum() + w.sum())(weight)
