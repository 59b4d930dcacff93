"""Run by test_load.py: what a long run must not gather. The long ones are marked slow."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inputs import indices, offsets
from torch import Tensor

import myemb
from myemb import optim
from myemb.functional import embedding, embedding_bag, embedding_renorm_

ROWS, WIDTH, MIB = 300, 16, 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def count_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def check_growth(step: Callable[[], None], steps: int) -> None:
    """Runs a tenth of the steps for everything to find its size, and then all of them."""
    for _ in range(steps // 10):
        step()
    tensors, before = count_tensors(), resident_bytes()
    for _ in range(steps):
        step()
    assert count_tensors() == tensors
    grown = resident_bytes() - before
    assert grown < 4 * MIB, f"{grown / MIB:.1f} MiB more after {steps} steps"


def table(**options: Any) -> myemb.nn.Embedding:
    return myemb.nn.Embedding(ROWS, WIDTH, sparse=True, **options)


def train(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    rows, starts = indices("zipf", 40, ROWS), offsets(40, 8)

    def step() -> None:
        arguments = (rows, starts) if isinstance(module, torch.nn.EmbeddingBag) else (rows,)
        module(*arguments).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def lookups() -> Callable[[], None]:
    module = table(padding_idx=0, max_norm=1.0)
    return train(module, optim.SGD(module.parameters(), lr=0.01))


def bags() -> Callable[[], None]:
    module = myemb.nn.EmbeddingBag(ROWS, WIDTH, mode="max")
    return train(module, optim.Adam(module.parameters(), lr=0.01))


def fused() -> Callable[[], None]:
    module = table()
    optimizer = optim.RowWiseAdagrad(module.parameters(), lr=0.01)
    optim.fuse_in_backward(optimizer, module)
    return train(module, optimizer)


def fused_and_abandoned() -> Callable[[], None]:
    """Graphs that are never differentiated, or fail on the way, keep nothing with the table."""
    module = table()
    optimizer = optim.Adagrad(module.parameters(), lr=0.01)
    optim.fuse_in_backward(optimizer, module)
    rows = indices("zipf", 40, ROWS)

    def fail(gradient: Tensor) -> None:
        raise ValueError("on purpose")

    def step() -> None:
        module(rows)
        output = module(rows) * 2 + module(rows)
        other = torch.ones(1, requires_grad=True)
        late = other * 1
        late.register_hook(fail)
        with pytest.raises(ValueError, match="on purpose"):
            (output.sum() + late).backward()

    return step


def collection() -> Callable[[], None]:
    tables = [myemb.nn.Table(ROWS, WIDTH, mode=mode) for mode in ("sum", "mean", "max")]
    module = myemb.nn.EmbeddingBagCollection(tables)
    optimizer = optim.Adagrad(module.parameters(), lr=0.01)
    optim.fuse_in_backward(optimizer, module)
    batch = {name: indices("zipf", 40, ROWS).view(8, 5) for name in module.features}

    def step() -> None:
        module(batch).square().sum().backward()

    return step


def refusals() -> Callable[[], None]:
    """Errors of every kind, which leave their exceptions behind and nothing else."""
    weight = torch.randn(ROWS, WIDTH, requires_grad=True)
    bad, starts = torch.tensor([0, ROWS]), torch.tensor([0, 2, 1])
    calls: list[Callable[[], Any]] = [
        lambda: embedding(bad, weight, max_norm=1.0),
        lambda: embedding_bag(bad, weight, torch.tensor([0])),
        lambda: embedding_bag(bad.clamp(max=3), weight, starts, max_norm=1.0),
        lambda: embedding_renorm_(weight, bad, 1.0),
        lambda: torch.ops.myemb.embedding_dense_backward(torch.ones(2, 3), bad, 10),
        lambda: torch.ops.myemb.embedding_update_(weight.detach(), [], weight, rule="lion", lr=1.0),
    ]

    def step() -> None:
        for call in calls:
            with pytest.raises((RuntimeError, IndexError, ValueError)):
                call()

    return step


def modules() -> Callable[[], None]:
    """Tables, optimizers and what ties them, made and dropped."""
    rows = indices("zipf", 40, ROWS)

    def step() -> None:
        module = table()
        optimizer = optim.Adam(module.parameters(), lr=0.01)
        optim.fuse_in_backward(optimizer, module)
        module(rows).square().sum().backward()

    return step


LOOPS: dict[str, tuple[Callable[[], Callable[[], None]], int]] = {
    "lookups": (lookups, 100_000),
    "bags": (bags, 100_000),
    "fused": (fused, 100_000),
    "fused and abandoned": (fused_and_abandoned, 20_000),
    "collection": (collection, 50_000),
    "refusals": (refusals, 10_000),
    "modules": (modules, 10_000),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_does_not_grow(name: str) -> None:
    make, steps = LOOPS[name]
    torch.set_num_threads(1)
    check_growth(make(), steps // 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_a_long_loop_does_not_grow(name: str) -> None:
    make, steps = LOOPS[name]
    torch.set_num_threads(1)
    check_growth(make(), steps)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("kind", ["SGD", "Adagrad", "RowWiseAdagrad", "Adam", "AdamW"])
def test_modules_and_optimizers_are_gone_at_once(kind: str, fuse: bool) -> None:
    """By their reference counts: nothing waits for the garbage collector."""
    rows = indices("zipf", 40, ROWS)
    gc.collect()
    gc.disable()
    try:
        module = table()
        optimizer = getattr(optim, kind)(module.parameters(), lr=0.01)
        if fuse:
            optim.fuse_in_backward(optimizer, module)
        module(rows).square().sum().backward()
        optimizer.step()
        dead = [weakref.ref(each) for each in (module, module.weight, optimizer)]
        dead += [weakref.ref(value) for value in optimizer.state[module.weight].values()]
        del module, optimizer
        assert [each() for each in dead] == [None] * len(dead)
    finally:
        gc.enable()


def test_a_table_is_not_fused_any_more_when_its_optimizer_is_gone() -> None:
    """Whoever keeps the handle: gradients are stored again."""
    module = table()
    handle = optim.fuse_in_backward(optim.SGD(module.parameters(), lr=0.1), module)
    gc.collect()
    before = module.weight.detach().clone()
    module(indices("zipf", 40, ROWS)).sum().backward()
    assert torch.equal(module.weight, before)
    assert module.weight.grad is not None
    handle.remove()
    again = optim.SGD(module.parameters(), lr=0.1)
    optim.fuse_in_backward(again, module)


def test_hooks_are_removed() -> None:
    module = table()
    optimizer = optim.SGD(module.parameters(), lr=0.1)
    accumulate = module(indices("zipf", 4, ROWS)).grad_fn.next_functions[0][0]
    for _ in range(100):
        optim.fuse_in_backward(optimizer, module).remove()
    module(indices("zipf", 40, ROWS)).sum().backward()
    assert module.weight.grad is not None
    assert accumulate.variable is module.weight
