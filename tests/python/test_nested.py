"""Nested tensors as lookups, as bags and as features, and what torch.nn does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
import torch.nn.functional as F
from inputs import MODES
from torch import Tensor
from torch.nested import nested_tensor, nested_tensor_from_jagged
from torch.utils.checkpoint import checkpoint

import myemb.functional as M
from myemb import nn

ROWS, WIDTH = 7, 4
KINDS = ["jagged", "strided", "holes", "narrowed"]
kinds = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


def nested(kind: str, values: Tensor, hole: Any = 99) -> Tensor:
    """Components of 3, 0 and 2 of the five ``values``. A ``hole`` is no row of any table."""
    holes = values.new_full((4,), hole)
    starts = {"jagged": [0, 3, 3, 5], "holes": [0, 4, 5, 8], "narrowed": [1, 0, 0]}
    lengths = torch.tensor([3, 0, 2], device=values.device)
    if kind == "strided":
        return nested_tensor([values[:3], values[:0], values[3:]])
    offsets = torch.tensor(starts[kind], device=values.device)
    if kind == "jagged":
        return nested_tensor_from_jagged(values, offsets)
    if kind == "holes":
        holed = torch.cat([values[:3], holes[:2], values[3:], holes[:1]])
        return nested_tensor_from_jagged(holed, offsets, lengths)
    rows = [torch.cat([holes[:1], values[:3]]), holes, torch.cat([values[3:], holes[:2]])]
    return torch.nested.narrow(torch.stack(rows), 1, offsets, lengths, layout=torch.jagged)


def lookups(device: str, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([1, 3, 3, 0, 3], device=device, dtype=dtype)


STARTS = [0, 3, 3]


def table(device: str) -> Tensor:
    return torch.randn(ROWS, WIDTH, dtype=torch.float64, device=device, requires_grad=True)


@kinds
@pytest.mark.parametrize(
    "options", [{}, {"sparse": True}, {"padding_idx": 3}, {"scale_grad_by_freq": True}]
)
def test_a_lookup_keeps_the_structure(kind: str, options: dict[str, Any], device: str) -> None:
    flat, weight = lookups(device), table(device)
    made = nested(kind, flat)
    output = M.embedding(made, weight, **options)
    assert output.is_nested and output.layout is made.layout
    if output.layout is torch.jagged:
        assert output.shape == (*made.shape, WIDTH)  # the same ragged size, not only as long
    rows = torch.cat(output.unbind())
    expected = F.embedding(flat, weight, **options)
    assert torch.equal(rows, expected)
    upstream = torch.randn_like(rows)
    (actual,) = torch.autograd.grad(rows, weight, upstream)
    (gradient,) = torch.autograd.grad(expected, weight, upstream)
    torch.testing.assert_close(actual.to_dense(), gradient.to_dense())


def test_a_lookup_is_pytorchs_where_pytorch_has_one(device: str) -> None:
    weight = table(device)
    for made in (
        nested("jagged", lookups(device, torch.int32)),
        nested_tensor_from_jagged(
            lookups(device).view(1, 5, 1).expand(2, 5, 3).flatten(0, 1),
            torch.tensor([0, 4, 10], device=device),
        ),
    ):
        ours, theirs = M.embedding(made, weight), F.embedding(made, weight)
        assert ours.shape == theirs.shape
        assert torch.equal(ours.values(), theirs.values())
        assert (ours * theirs).is_nested


def test_a_transposed_tensor(device: str) -> None:
    weight = table(device)
    parts = [torch.randint(ROWS, (length, 2), device=device) for length in (3, 1)]
    made = nested_tensor(parts, layout=torch.jagged).transpose(1, 2)
    for rows, part in zip(M.embedding(made, weight).unbind(), parts, strict=True):
        assert torch.equal(rows, weight[part.t()])


@pytest.mark.parametrize("kind", ["holes", "narrowed"])
def test_nothing_is_renormed_for_a_hole(kind: str, device: str) -> None:
    weight = table(device).detach() + 9
    before = weight.clone()
    M.embedding(nested(kind, lookups(device), hole=5), weight, max_norm=1.0)
    assert torch.equal(weight[5], before[5])
    assert weight[3].norm() < 1.01


@kinds
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_component_is_a_bag(kind: str, mode: str, weighted: bool, device: str) -> None:
    flat, weight = lookups(device), table(device)
    factors = torch.rand(5, dtype=torch.float64, device=device, requires_grad=weighted)
    # Factors of the same structure, by its name: PyTorch compares ragged sizes.
    made = nested(kind, flat)
    weights = None
    if weighted:
        weights = nested(kind, factors) if kind == "strided" else like(made, kind, factors)
    actual = M.embedding_bag(made, weight, mode=mode, padding_idx=0, per_sample_weights=weights)
    expected = reference.bag(
        weight,
        flat,
        torch.tensor(STARTS),
        mode,
        per_sample_weights=factors if weighted else None,
        padding_idx=0,
    )
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    # (A strided tensor is a copy, as in PyTorch: nothing goes back to what it was made of.)
    leaves = (weight, factors) if weighted and kind != "strided" else (weight,)
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
    )


def like(made: Any, kind: str, values: Tensor) -> Tensor:
    """A jagged tensor of these values with the offsets and lengths of ``made``."""
    other: Any = nested(kind, values)
    return nested_tensor_from_jagged(other.values(), made.offsets(), made.lengths())


def test_bags_are_pytorchs_where_pytorch_has_them(device: str) -> None:
    flat, weight = lookups(device), table(device)
    factors = torch.rand(5, dtype=torch.float64, device=device, requires_grad=True)
    made = nested("jagged", flat)
    both = [
        bag(made, weight, mode="sum", per_sample_weights=like(made, "jagged", factors))
        for bag in (M.embedding_bag, F.embedding_bag)
    ]
    torch.testing.assert_close(*both)
    upstream = torch.randn_like(both[0])
    torch.testing.assert_close(
        *(torch.autograd.grad(output, (weight, factors), upstream) for output in both)
    )


def test_other_weights_are_refused(device: str) -> None:
    flat, weight = lookups(device), table(device)
    factors = torch.rand(5, dtype=torch.float64, device=device)
    starts = torch.tensor(STARTS, device=device)
    wrong: list[tuple[Tensor, Tensor, Tensor | None]] = [
        (nested("jagged", flat), factors, None),
        (nested("jagged", flat), nested("strided", factors), None),
        (nested("strided", flat), nested_tensor([factors[:2], factors[:0], factors[2:]]), None),
        (flat, nested("jagged", factors), starts),
        (flat, nested("strided", factors), starts),
    ]
    for made, weights, offsets in wrong:
        with pytest.raises(ValueError, match="it must have the same shape as the input"):
            M.embedding_bag(made, weight, offsets, mode="sum", per_sample_weights=weights)
    deep = nested_tensor([flat.view(1, 5)], layout=torch.jagged)
    with pytest.raises(ValueError, match="1D or 2D Tensor, but got Tensor of dimension 3"):
        M.embedding_bag(deep, weight)


@kinds
def test_features(kind: str, device: str) -> None:
    tables = [nn.Table(ROWS, 3, mode="sum", name="a"), nn.Table(ROWS, 2, mode="max", name="b")]
    collection = nn.EmbeddingBagCollection(tables).to(device)
    flat, factors = lookups(device), torch.rand(5, device=device)
    made = nested(kind, flat)
    output = collection(
        {"a": made, "b": torch.tensor([[3, 1], [0, 2], [1, 1]], device=device)},
        per_sample_weights={"a": nested(kind, factors)},
    )
    expected = reference.bag(
        collection.tables["a"].weight, flat, torch.tensor(STARTS), "sum", factors
    )
    torch.testing.assert_close(output[:, :3], expected)
    upstream = torch.randn_like(expected)
    (leaf,) = [collection.tables["a"].weight]
    torch.testing.assert_close(
        torch.autograd.grad(output[:, :3], leaf, upstream),
        torch.autograd.grad(expected, leaf, upstream),
    )
    with pytest.raises(ValueError, match="feature b: input has to be 1D or 2D Tensor"):
        deep = nested_tensor([flat.view(1, 5)] * 3, layout=torch.jagged)
        collection({"a": made, "b": deep})


COMPILED: dict[str, Callable[[], torch.nn.Module]] = {
    "lookup": lambda: nn.Embedding(ROWS, WIDTH),
    "bag": lambda: nn.EmbeddingBag(ROWS, WIDTH, mode="sum"),
}


def values(output: Any) -> Tensor:
    flat: Tensor = output.values() if output.is_nested else output
    return flat


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_and_checkpointed(name: str, device: str) -> None:
    module = COMPILED[name]().to(device)
    made = nested("jagged", lookups(device))
    expected = values(module(made))
    upstream = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, module.weight, upstream)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for output in (compiled(made), checkpoint(module, made, use_reentrant=False)):
        flat = values(output)
        assert torch.equal(flat, expected)
        torch.testing.assert_close(torch.autograd.grad(flat, module.weight, upstream)[0], gradient)
