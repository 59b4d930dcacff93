"""The batching rules: vmap of every operator equals a loop, without vmap's own loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inputs import MODES
from reference import vmap_loop
from simulator import fatal_on_a_gpu
from torch import Tensor
from torch.func import grad, vmap

from myemb.functional import embedding, embedding_bag, embedding_renorm_

pytestmark = pytest.mark.usefixtures("no_vmap_fallback")
BATCH, ROWS, WIDTH = 3, 5, 4
ops = torch.ops.myemb


def batched(make: Callable[[], Tensor], dim: int | None) -> Tensor:
    """One tensor, or a stack of BATCH of them along ``dim``."""
    return make() if dim is None else torch.stack([make() for _ in range(BATCH)], dim)


def check(function: Callable[..., Any], in_dims: tuple[int | None, ...], *arguments: Any) -> None:
    torch.testing.assert_close(
        vmap(function, in_dims)(*arguments), vmap_loop(function, in_dims, *arguments)
    )


def check_gradients(
    function: Callable[..., Tensor], in_dims: tuple[int | None, ...], *arguments: Any
) -> None:
    """Gradients of the plain tensors outside, through vmap and through the loop."""
    leaves = [each for each in arguments if each is not None and each.is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_()
    output = vmap(function, in_dims)(*arguments)
    expected = vmap_loop(function, in_dims, *arguments)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    actual = torch.autograd.grad(output, leaves, upstream)
    expected = torch.autograd.grad(expected, leaves, upstream)
    torch.testing.assert_close(
        tuple(each.to_dense() for each in actual), tuple(each.to_dense() for each in expected)
    )


def weights(device: str) -> Callable[[], Tensor]:
    return lambda: torch.randn(ROWS, WIDTH, dtype=torch.float64, device=device)


def lookups(device: str, *shape: int, dtype: torch.dtype = torch.int64) -> Callable[[], Tensor]:
    return lambda: torch.randint(ROWS, shape, device=device).to(dtype)


EMBEDDING_DIMS = [
    dims for dims in itertools.product((None, 0, 1, 2), (None, 0, 1)) if dims != (None, None)
]


@pytest.mark.parametrize("dims", EMBEDDING_DIMS)
@pytest.mark.parametrize("padding_idx", [None, 1, -1])
@pytest.mark.parametrize("scale_grad_by_freq", [False, True])
def test_lookups(
    dims: tuple[int | None, int | None],
    padding_idx: int | None,
    scale_grad_by_freq: bool,
    device: str,
) -> None:
    weight = batched(weights(device), dims[0])
    rows = batched(lookups(device, 7), dims[1])
    check_gradients(
        lambda w, i: embedding(i, w, padding_idx, scale_grad_by_freq=scale_grad_by_freq),
        dims,
        weight,
        rows,
    )


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_indices_of_other_shapes_and_dtypes(
    shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    rows = batched(lookups(device, *shape, dtype=dtype), 0)
    for dim in (None, 0):
        weight = batched(lambda: torch.randn(200, 2, device=device), dim)
        check(lambda w, i: embedding(i, w, padding_idx=0), (dim, 0), weight, rows)


def test_sparse_gradients_where_the_table_is_shared(device: str) -> None:
    weight, rows = weights(device)().requires_grad_(), batched(lookups(device, 4), 0)
    vmap(lambda i: embedding(i, weight, sparse=True))(rows).sum().backward()
    assert weight.grad is not None
    assert weight.grad.is_sparse
    counts = torch.bincount(rows.flatten(), minlength=ROWS).double()
    assert torch.equal(weight.grad.to_dense(), counts.unsqueeze(1).expand(ROWS, WIDTH))


# Of the table, the indices and, where there are three, the weights.
BAG_DIMS = [
    dims
    for choices in itertools.accumulate([((None, 0, 2), (None, 0, 1)), ((None, 0),)])
    for dims in itertools.product(*choices)
    if any(dim is not None for dim in dims)
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dims", BAG_DIMS)
@pytest.mark.parametrize("padding_idx", [None, -2])
def test_bags_of_one_length(
    mode: str, dims: tuple[int | None, ...], padding_idx: int | None, device: str
) -> None:
    arguments = [batched(weights(device), dims[0]), batched(lookups(device, 2, 4), dims[1])]
    for dim in dims[2:]:
        factors = batched(lambda: torch.randn(2, 4, dtype=torch.float64, device=device), dim)
        arguments.append(factors)

    def function(weight: Tensor, rows: Tensor, factors: Tensor | None = None) -> Tensor:
        return embedding_bag(
            rows, weight, mode=mode, per_sample_weights=factors, padding_idx=padding_idx
        )

    check_gradients(function, dims, *arguments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dims", [(None, 0, None), (0, None, None), (0, 1, 0), (None, None, 0)])
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_bags_with_offsets(
    mode: str, dims: tuple[int | None, ...], include_last_offset: bool, device: str
) -> None:
    def offsets() -> Tensor:
        starts = torch.randint(8, (3,), device=device).sort().values
        starts[0] = 0
        last = torch.tensor([7] if include_last_offset else [], dtype=torch.long, device=device)
        return torch.cat([starts, last]).clamp(max=7).to(torch.int32)

    check_gradients(
        lambda w, i, o: embedding_bag(i, w, o, mode=mode, include_last_offset=include_last_offset),
        dims,
        batched(weights(device), dims[0]),
        batched(lookups(device, 7, dtype=torch.int16), dims[1]),
        batched(offsets, dims[2]),
    )


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("dims", [(None, 0), (0, None), (1, 1)])
def test_frequencies_are_counted_within_an_element(
    mode: str, dims: tuple[int | None, ...], device: str
) -> None:
    check_gradients(
        lambda w, i: embedding_bag(i, w, mode=mode, scale_grad_by_freq=True),
        dims,
        batched(weights(device), dims[0]),
        batched(lookups(device, 3, 4), dims[1]),
    )


@pytest.mark.parametrize("mode", MODES)
def test_nested_vmap(mode: str, device: str) -> None:
    weight = torch.randn(2, BATCH, ROWS, WIDTH, device=device)
    rows = torch.randint(ROWS, (BATCH, 2, 3, 4), device=device)

    def function(weight: Tensor, rows: Tensor) -> Tensor:
        return embedding_bag(rows, weight, mode=mode, padding_idx=0) + embedding(rows, weight).sum(
            1
        )

    actual = vmap(vmap(function, (0, 0)), (0, 1))(weight, rows)
    for first, second in itertools.product(range(2), range(BATCH)):
        expected = function(weight[first, second], rows[second, first])
        torch.testing.assert_close(actual[first, second], expected)


@pytest.mark.parametrize("mode", MODES)
def test_vmap_inside_and_outside_of_grad(mode: str, device: str) -> None:
    weight = torch.randn(BATCH, ROWS, WIDTH, dtype=torch.float64, device=device)
    rows = torch.randint(ROWS, (BATCH, 2, 4), device=device)

    def loss(weight: Tensor, rows: Tensor) -> Tensor:
        bags = embedding_bag(rows, weight, mode=mode, padding_idx=1)
        return (bags.square().sum() + embedding(rows, weight, padding_idx=1).square().sum()) / 2

    expected = torch.stack([grad(loss)(*each) for each in zip(weight, rows, strict=True)])
    torch.testing.assert_close(vmap(grad(loss))(weight, rows), expected)
    together = grad(lambda weight: vmap(loss)(weight, rows).sum())(weight)
    torch.testing.assert_close(together, expected)


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0), (1, 0)])
def test_max_norm(dims: tuple[int | None, ...], device: str) -> None:
    weight, rows = batched(weights(device), dims[0]), batched(lookups(device, 2, 2), dims[1])
    expected_weight = weight.clone()
    for function in (embedding, embedding_bag):
        expected = vmap_loop(
            lambda w, i, f=function: f(i, w, max_norm=0.5), dims, expected_weight, rows
        )
        actual = vmap(lambda w, i, f=function: f(i, w, max_norm=0.5), dims)(weight, rows)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(weight, expected_weight)


def test_renorm_of_each_table(device: str) -> None:
    weight, rows = batched(weights(device), 0), torch.tensor([1, 3], device=device)
    expected = torch.stack([torch.embedding_renorm_(w.clone(), rows, 0.5, 1.0) for w in weight])
    assert vmap(lambda w: embedding_renorm_(w, rows, 0.5, 1.0))(weight).shape == weight.shape
    torch.testing.assert_close(weight, expected)


@fatal_on_a_gpu
@pytest.mark.parametrize("bad", [ROWS, -1, 2**40])
@pytest.mark.parametrize("weight_dim", [None, 0])
def test_an_index_does_not_reach_into_a_neighbours_table(
    bad: int, weight_dim: int | None, device: str
) -> None:
    weight, rows = batched(weights(device), weight_dim), torch.zeros(BATCH, 1, 2, dtype=torch.long)
    rows[1, 0, 1] = bad
    for function in (embedding, embedding_bag):
        with pytest.raises((IndexError, RuntimeError), match=r"range|valid"):
            vmap(lambda w, i, f=function: f(i, w), (weight_dim, 0))(weight, rows.to(device))


@fatal_on_a_gpu
@pytest.mark.parametrize("bad", [[1, 2], [0, 5], [2, 1], [-1, 0]])
def test_offsets_do_not_reach_into_a_neighbours_lookups(bad: list[int], device: str) -> None:
    offsets = torch.tensor([[0, 2], bad, [0, 4]], device=device)
    with pytest.raises((ValueError, RuntimeError)):
        vmap(
            lambda o: embedding_bag(
                torch.zeros(4, dtype=torch.long, device=device), torch.ones(2, 2, device=device), o
            )
        )(offsets)


@fatal_on_a_gpu
def test_a_last_offset_must_be_the_length_in_every_element(device: str) -> None:
    rows, weight = torch.zeros(4, dtype=torch.long, device=device), torch.ones(2, 2, device=device)
    offsets = torch.tensor([[0, 2, 4], [0, 2, 3]], device=device)
    with pytest.raises(RuntimeError):
        vmap(lambda o: embedding_bag(rows, weight, o, include_last_offset=True))(offsets)


def test_wrong_arguments_stay_wrong(device: str) -> None:
    weight, rows = batched(weights(device), 0), batched(lookups(device, 2, 2), 0)
    with pytest.raises(RuntimeError, match="scalar types"):
        vmap(embedding)(rows.float(), weight)
    with pytest.raises(ValueError, match="1D or 2D"):
        vmap(embedding_bag)(rows[..., 0, 0], weight)
    with pytest.raises(RuntimeError, match="padding_idx must be within"):
        vmap(lambda i, w: embedding_bag(i, w, padding_idx=9))(rows, weight)
    with pytest.raises(ValueError, match="offsets has to be a 1D Tensor"):
        vmap(lambda i, w: embedding_bag(i[0], w, i))(rows, weight)


GRADIENT_DIMS = [(0, None, None), (None, 0, None), (1, 0, None), (0, 0, 0), (2, None, 0)]


@pytest.mark.parametrize("dims", [(0, None), (2, None), (None, 0), (1, 1)])
@pytest.mark.parametrize("padding_idx", [-1, 2])
@pytest.mark.parametrize("scale_grad_by_freq", [False, True])
def test_embedding_dense_backward(
    dims: tuple[int | None, ...], padding_idx: int, scale_grad_by_freq: bool, device: str
) -> None:
    check(
        lambda g, i: ops.embedding_dense_backward(g, i, ROWS, padding_idx, scale_grad_by_freq),
        dims,
        batched(lambda: torch.randn(6, WIDTH, dtype=torch.float64, device=device), dims[0]),
        batched(lookups(device, 6), dims[1]),
    )


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("dims", GRADIENT_DIMS)
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_backward_operators_of_bags(
    mode: int, dims: tuple[int | None, ...], padding_idx: int | None, device: str
) -> None:
    grads = batched(lambda: torch.randn(2, WIDTH, dtype=torch.float64, device=device), dims[0])
    rows = batched(lookups(device, 2, 3), dims[1])
    factors = batched(lambda: torch.randn(2, 3, dtype=torch.float64, device=device), dims[2])
    weight = weights(device)()
    positions, position_dim = None, None
    if mode == 2:
        position_dim = None if dims[1:] == (None, None) else 0
        vmapped = vmap(
            lambda i, p: ops.embedding_bag_max(weight, i, None, p, False, padding_idx),
            dims[1:],
        )
        plain = ops.embedding_bag_max
        positions = (
            plain(weight, rows, None, factors, False, padding_idx)[1]
            if position_dim is None
            else vmapped(rows, factors)[1]
        )
        if position_dim == 0:
            expected = vmap_loop(
                lambda i, p: plain(weight, i, None, p, False, padding_idx), dims[1:], rows, factors
            )
            assert torch.equal(positions, expected[1])
    in_dims = (*dims, position_dim)

    def dense(g: Tensor, i: Tensor, p: Tensor, at: Tensor | None) -> Tensor:
        return ops.embedding_bag_dense_backward(
            g, i, None, at, ROWS, False, mode, p, False, padding_idx
        )

    def sparse(g: Tensor, i: Tensor, p: Tensor, at: Tensor | None) -> Tensor:
        return ops.embedding_bag_sparse_backward(
            g, i, None, ROWS, mode == 1, mode, p, False, padding_idx
        )

    def factor(g: Tensor, i: Tensor, p: Tensor, at: Tensor | None) -> Tensor:
        return ops.embedding_bag_per_sample_weights_backward(
            g, weight, i, None, at, mode, False, padding_idx
        )

    check(dense, in_dims, grads, rows, factors, positions)
    check(factor, in_dims, grads, rows, factors, positions)
    if mode != 2:
        check(sparse, in_dims, grads, rows, factors, positions)


def test_factor_gradients_with_a_table_for_each_element(device: str) -> None:
    check(
        lambda g, w, i: ops.embedding_bag_per_sample_weights_backward(
            g, w, i, None, None, 1, False, 1
        ),
        (None, 1, None),
        torch.randn(2, WIDTH, dtype=torch.float64, device=device),
        batched(weights(device), 1),
        lookups(device, 2, 3)(),
    )
