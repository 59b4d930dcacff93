"""fuse_in_backward: the steps are those that optimizer.step() makes of the gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from fused import ROWS, STEPS, WIDTH, Pair, bags, table, weighted
from inputs import indices, offsets
from optimizers import each_case, ours, sparse
from torch import Tensor, nn

import myemb
from myemb import optim

pytestmark = pytest.mark.devices("cpu", why="test_cuda_update.py has the bits of the kernels")

rules = pytest.mark.parametrize("case", ["sgd", "momentum", "adagrad", "row wise", "amsgrad"])


@each_case
@pytest.mark.parametrize("kind", ["uniform", "zipf", "one_row"])
def test_lookups(case: str, kind: str, device: str) -> None:
    pair = Pair(case, table(padding_idx=3))
    for _ in range(STEPS):
        lookups = indices(kind, 60, ROWS, torch.int32).view(5, 12)
        pair.step(lambda module, lookups=lookups: weighted(module(lookups)))
    pair.check()


@rules
def test_frequencies(case: str, device: str) -> None:
    """Divided once, where a sparse gradient has every entry divided."""
    pair = Pair(case, bags(scale_grad_by_freq=True, dtype=torch.float64))
    for _ in range(STEPS):
        lookups = indices("zipf", 60, ROWS).view(5, 12)
        pair.step(lambda module, lookups=lookups: weighted(module(lookups)))
    torch.testing.assert_close(pair.fused.weight, pair.plain.weight, rtol=1e-12, atol=1e-12)


@rules
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("with_weights", [False, True])
def test_bags(case: str, mode: str, with_weights: bool, device: str) -> None:
    pair = Pair(case, bags(mode, padding_idx=0, include_last_offset=True))
    for _ in range(STEPS):
        lookups, starts = indices("zipf", 50, ROWS), offsets(50, 9, include_last_offset=True)
        factors = torch.randn(50, requires_grad=True) if with_weights else None
        seen = []

        def loss(module: nn.Module, lookups=lookups, starts=starts, factors=factors, seen=seen):
            if factors is not None:
                seen.append(factors.grad)
                factors.grad = None
            return weighted(module(lookups, starts, factors))

        pair.step(loss)
        if factors is not None:
            assert torch.equal(seen[1], factors.grad)  # of the fused one, and of the plain one
    pair.check()


@rules
def test_maxima(case: str, device: str) -> None:
    """The rows that are looked up are updated, of the dense gradient that mode max has."""
    fused = bags("max", padding_idx=0)
    optimizer = ours(case, fused.parameters())
    optim.fuse_in_backward(optimizer, fused)
    plain = copy.deepcopy(fused)
    other = ours(case, plain.parameters())
    for _ in range(STEPS):
        lookups, starts = indices("uniform", 30, ROWS), offsets(30, 6)
        gradient, factors = torch.randn(6, WIDTH), torch.randn(30)
        fused(lookups, starts, factors).backward(gradient)
        plain(lookups, starts, factors).backward(gradient)
        rows = lookups[lookups != 0].unique()
        plain.weight.grad = sparse(rows, plain.weight.grad[rows], ROWS)
        other.step()
        other.zero_grad()
    assert torch.equal(fused.weight, plain.weight)


@rules
def test_a_table_that_is_looked_up_more_than_once(case: str, device: str) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bags = bags()
            self.rows = table()
            self.rows.weight = self.bags.weight

        def forward(self, lookups: Tensor) -> Tensor:
            summed = self.bags(lookups.view(5, 6))
            return weighted(self.rows(lookups)) + weighted(summed) + weighted(self.rows(lookups))

    pair = Pair(case, Both())
    for _ in range(STEPS):
        lookups = indices("zipf", 30, ROWS)
        pair.step(lambda module, lookups=lookups: module(lookups))
    pair.check()
    if "step" in (state := pair.fused_optimizer.state[pair.fused.bags.weight]):
        assert state["step"] == STEPS


@rules
def test_maxima_and_sums_of_one_table(case: str, device: str) -> None:
    """Mode max has no sparse gradient: its entries are put beside those of the sums."""
    maxima, sums = bags("max"), bags("sum")
    sums.weight = maxima.weight
    start = maxima.weight.detach().clone()
    optimizer = ours(case, [maxima.weight])
    optim.fuse_in_backward(optimizer, maxima)
    lookups = indices("uniform", 10, ROWS).view(2, 5)
    first, second = torch.randn(2, WIDTH), torch.randn(2, WIDTH)
    (maxima(lookups) * first + sums(lookups) * second).sum().backward()
    plain = nn.Parameter(start.clone())
    dense = (
        torch.autograd.grad(
            (myemb.functional.embedding_bag(lookups, plain, mode="max") * first).sum(), plain
        )[0]
        + torch.autograd.grad(
            (myemb.functional.embedding_bag(lookups, plain, mode="sum") * second).sum(), plain
        )[0]
    )
    rows = lookups.unique()
    plain.grad = sparse(rows, dense[rows], ROWS)
    ours(case, [plain]).step()
    torch.testing.assert_close(maxima.weight, plain)
    untouched = torch.ones(ROWS, dtype=torch.bool)
    untouched[rows] = False
    assert torch.equal(maxima.weight[untouched], start[untouched])


@rules
def test_a_penalty_and_a_tied_layer(case: str, device: str) -> None:
    """Their gradient is dense, so the step is that of a dense gradient: every row moves."""

    def loss(module: nn.Module, lookups: Tensor) -> Tensor:
        rows = module(lookups)
        return weighted(rows @ module.weight.T) + module.weight.square().sum()

    pair = Pair(case, myemb.nn.Embedding(ROWS, WIDTH, dtype=torch.float64))
    for _ in range(STEPS):
        lookups = indices("zipf", 30, ROWS)
        pair.step(lambda module, lookups=lookups: loss(module, lookups), dense=True)
    for ours_, theirs in zip(pair.fused.parameters(), pair.plain.parameters(), strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-12, atol=1e-12)
