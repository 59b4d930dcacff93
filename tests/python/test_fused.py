"""fuse_in_backward: the steps are those that optimizer.step() makes of the gradient."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inputs import MODES, indices, offsets
from optimizers import each_case, eighths, ours
from torch import Tensor, nn

import myemb
from myemb import optim

pytestmark = pytest.mark.devices("cpu", why="test_cuda_update.py has the bits of the kernels")

ROWS, WIDTH, STEPS = 20, 7, 5
rules = pytest.mark.parametrize("case", ["sgd", "momentum", "adagrad", "row wise", "amsgrad"])


class Pair:
    """A module whose tables are fused, and a copy of it that takes ordinary steps."""

    def __init__(self, case: str, module: nn.Module, **options: Any) -> None:
        self.fused, self.plain = module, copy.deepcopy(module)
        self.fused_optimizer = ours(case, self.fused.parameters(), **options)
        self.plain_optimizer = ours(case, self.plain.parameters(), **options)
        self.handle = optim.fuse_in_backward(self.fused_optimizer, self.fused)

    def step(self, loss: Callable[[nn.Module], Tensor], dense: bool = False) -> None:
        """One step of both by the gradient of what the function computes with a module."""
        state = torch.get_rng_state()
        loss(self.fused).backward()
        for module in self.tables(self.fused):
            assert module.weight.grad is None
        self.fused_optimizer.step()
        torch.set_rng_state(state)
        loss(self.plain).backward()
        if dense:
            for module in self.tables(self.plain):
                assert not module.weight.grad.is_sparse
        self.plain_optimizer.step()
        for optimizer in (self.fused_optimizer, self.plain_optimizer):
            optimizer.zero_grad()

    @staticmethod
    def tables(module: nn.Module) -> list[Any]:
        kinds = (nn.Embedding, nn.EmbeddingBag)
        return [m for m in module.modules() if isinstance(m, kinds)]

    def check(self) -> None:
        """The same bits, states included."""
        pairs = zip(self.fused.parameters(), self.plain.parameters(), strict=True)
        for ours_, theirs in pairs:
            assert torch.equal(ours_, theirs)
            state, expected = self.fused_optimizer.state[ours_], self.plain_optimizer.state[theirs]
            assert state.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(state[name], value), name


def table(**options: Any) -> myemb.nn.Embedding:
    return myemb.nn.Embedding(ROWS, WIDTH, sparse=True, **options)


def bags(mode: str = "sum", **options: Any) -> myemb.nn.EmbeddingBag:
    return myemb.nn.EmbeddingBag(ROWS, WIDTH, mode=mode, sparse=mode != "max", **options)


def weighted(out: Tensor) -> Tensor:
    """A loss whose gradient is random."""
    return (out * torch.randn(out.shape)).sum()


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
        values = plain.weight.grad[rows]
        plain.weight.grad = torch.sparse_coo_tensor(
            rows[None], values, plain.weight.shape, check_invariants=False
        )
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
    plain.grad = torch.sparse_coo_tensor(
        rows[None], dense[rows], plain.shape, check_invariants=False
    )
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


def test_the_rest_of_a_model_takes_ordinary_steps(device: str) -> None:
    pair = Pair("adamw", nn.Sequential(table(), nn.Linear(WIDTH, 3)))
    for _ in range(STEPS):
        lookups = indices("uniform", 30, ROWS)
        pair.step(lambda module, lookups=lookups: weighted(module(lookups)))
    pair.check()


def test_schedulers_and_groups(device: str) -> None:
    first, second = table(), table()
    plain = [nn.Parameter(first.weight.detach().clone()), nn.Parameter(second.weight.detach())]
    plain[1] = nn.Parameter(second.weight.detach().clone())

    def groups(tables: list[Any]) -> list[dict[str, Any]]:
        return [{"params": [tables[0]]}, {"params": [tables[1]], "lr": 0.5, "momentum": 0.5}]

    fused = optim.SGD(groups([first.weight, second.weight]), lr=0.1)
    other = optim.SGD(groups(plain), lr=0.1)
    optim.fuse_in_backward(fused, [first.weight, second.weight])
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (fused, other)]
    for _ in range(STEPS):
        lookups, gradient = indices("uniform", 9, ROWS), eighths(9, WIDTH)
        (first(lookups) + second(lookups)).backward(gradient)
        for parameter in plain:
            myemb.functional.embedding(lookups, parameter, sparse=True).backward(gradient)
        for optimizer, schedule in zip((fused, other), schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    assert torch.equal(first.weight, plain[0])
    assert torch.equal(second.weight, plain[1])


def test_passes_that_do_not_store_a_gradient(device: str) -> None:
    module, other = table(), torch.randn(4, WIDTH, requires_grad=True)
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    optim.fuse_in_backward(optimizer, module)
    before = module.weight.detach().clone()
    lookups = torch.tensor([1, 2, 2, 5])
    out = module(lookups) * other
    gradient = torch.autograd.grad(out.sum(), module.weight, retain_graph=True)[0]
    expected = torch.zeros(ROWS, WIDTH).index_add_(0, lookups, other.detach())
    assert torch.equal(gradient.to_dense(), expected)
    out.sum().backward(inputs=[other], retain_graph=True)
    assert torch.equal(module.weight, before)
    out.sum().backward(inputs=[module.weight], retain_graph=True)
    assert torch.equal(module.weight, before - expected)
    out.sum().backward(retain_graph=True)  # each pass is a step
    out.sum().backward()
    torch.testing.assert_close(module.weight, before - 3 * expected)


def test_a_graph_of_the_gradient_is_refused(device: str) -> None:
    module = table()
    before = module.weight.detach().clone()
    optim.fuse_in_backward(optim.SGD(module.parameters(), lr=1.0), module)  # gone at once
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    optim.fuse_in_backward(optimizer, module)
    out = module(torch.tensor([1, 2])).square().sum()
    with pytest.raises(RuntimeError, match="create_graph"):
        out.backward(create_graph=True)
    assert torch.equal(module.weight, before)
    with pytest.raises(RuntimeError, match="create_graph"):
        module(torch.tensor([1])).square().sum().backward(create_graph=True)


class Failing(torch.autograd.Function):
    """A node whose backward raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise ValueError("no gradient today")


def test_a_pass_that_fails_leaves_nothing_behind(device: str) -> None:
    module = table()
    before = module.weight.detach().clone()
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    optim.fuse_in_backward(optimizer, module)
    failing = Failing.apply(module.weight)[3:4]  # its gradient is waited for
    with pytest.raises(ValueError, match="no gradient today"):
        (module(torch.tensor([1])).sum() + failing.sum()).backward()
    assert torch.equal(module.weight, before)
    module(torch.tensor([2])).sum().backward()
    before[2] -= 1
    assert torch.equal(module.weight, before)


def test_the_end_of_it(device: str) -> None:
    module = table()
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    handle = optim.fuse_in_backward(optimizer, module)
    out = module(torch.tensor([1]))
    handle.remove()
    before = module.weight.detach().clone()
    out.sum().backward()  # of a graph from before, too
    assert torch.equal(module.weight, before)
    assert module.weight.grad is not None
    module.weight.grad = None
    optim.fuse_in_backward(optimizer, module)
    copied = copy.deepcopy(module)
    copied(torch.tensor([1])).sum().backward()
    assert copied.weight.grad is not None
    del optimizer
    gc.collect()
    module(torch.tensor([1])).sum().backward()
    assert module.weight.grad is not None


def test_what_is_refused(device: str) -> None:
    module = table()
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    with pytest.raises(TypeError, match=r"myemb\.optim"):
        optim.fuse_in_backward(torch.optim.SGD(module.parameters(), lr=1.0), module)
    with pytest.raises(ValueError, match="not among"):
        optim.fuse_in_backward(optimizer, table())
    with pytest.raises(ValueError, match="no embedding table"):
        optim.fuse_in_backward(optimizer, nn.Linear(3, 3))
    other = table()
    both = optim.SGD([module.weight, other.weight], lr=1.0)
    optim.fuse_in_backward(optimizer, module)
    with pytest.raises(RuntimeError, match="already"):
        optim.fuse_in_backward(both, [other.weight, module.weight])
    other(torch.tensor([1])).sum().backward()  # nothing of the refused call is left
    assert other.weight.grad is not None
    bias = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="2-D"):
        optim.fuse_in_backward(optim.SGD([bias]), bias)


def test_checkpointing(device: str) -> None:
    pair = Pair("adagrad", table())
    for _ in range(STEPS):
        lookups = indices("zipf", 30, ROWS)

        def loss(module: nn.Module, lookups: Tensor = lookups) -> Tensor:
            def rows(lookups: Tensor) -> Tensor:
                return module(lookups).tanh()

            run = torch.utils.checkpoint.checkpoint
            first = run(rows, lookups, use_reentrant=False)
            return weighted(first + run(rows, lookups.flip(0), use_reentrant=False))

        pair.step(loss)
    pair.check()


def test_threads_with_tables_of_their_own(device: str) -> None:
    pairs = [Pair("momentum", table()) for _ in range(4)]
    inputs = [[indices("zipf", 30, ROWS) for _ in range(STEPS)] for _ in pairs]
    gradient = eighths(30, WIDTH)

    def work(pair: Pair, steps: list[Tensor]) -> None:
        for lookups in steps:
            pair.fused(lookups).backward(gradient)

    threads = [threading.Thread(target=work, args=each) for each in zip(pairs, inputs, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pair, steps in zip(pairs, inputs, strict=True):
        for lookups in steps:
            pair.plain(lookups).backward(gradient)
            pair.plain_optimizer.step()
            pair.plain_optimizer.zero_grad()
        pair.check()


@pytest.mark.parametrize("rounding", ["stochastic", "split"])
@pytest.mark.parametrize("mode", MODES)
def test_tables_of_16_bits(rounding: str, mode: str, device: str) -> None:
    """The sums are not rounded on the way; whole numbers are exact in the gradient, too."""
    module = bags(mode, dtype=torch.bfloat16)
    fused = ours("adagrad", module.parameters(), rounding=rounding, seed=3)
    optim.fuse_in_backward(fused, module)
    plain = copy.deepcopy(module)
    other = ours("adagrad", plain.parameters(), rounding=rounding, seed=3)
    for _ in range(STEPS):
        lookups, gradient = torch.randperm(ROWS)[:8].view(4, 2), eighths(4, WIDTH).bfloat16()
        module(lookups).backward(gradient)
        plain(lookups).backward(gradient)
        if mode == "max":
            rows = lookups.unique()
            values = plain.weight.grad[rows]
            plain.weight.grad = torch.sparse_coo_tensor(
                rows[None], values, plain.weight.shape, check_invariants=False
            )
        other.step()
        other.zero_grad()
    assert torch.equal(module.weight, plain.weight)


def test_a_compiled_model_gives_a_dense_gradient(device: str) -> None:
    module = myemb.nn.Embedding(ROWS, WIDTH)
    plain = copy.deepcopy(module)
    optimizer, other = (optim.SGD(m.parameters(), lr=0.5) for m in (module, plain))
    optim.fuse_in_backward(optimizer, module)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    lookups, gradient = indices("zipf", 30, ROWS), eighths(30, WIDTH)
    compiled(lookups).backward(gradient)
    assert module.weight.grad is None
    plain(lookups).backward(gradient)
    other.step()
    assert torch.equal(module.weight, plain.weight)
