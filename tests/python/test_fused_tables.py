"""fuse_in_backward with many tables in one call: the steps of each table are those it has alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from inputs import indices, offsets
from optimizers import each_case, ours
from torch import Tensor, nn

from myemb import optim
from myemb.nn import EmbeddingBagCollection, Table

pytestmark = pytest.mark.devices("cpu", "cudasim", why="the modules are made on the CPU")
on_the_cpu = pytest.mark.devices("cpu", why="it is about what is checked on every device")

STEPS, BAGS, ROWS = 4, 6, 20
FEATURES = ("a", "b", "again", "c", "wide")
ops = torch.ops.myemb


def collection(max_mode: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """Four tables of several sizes, widths and modes; two features read the first one."""
    return EmbeddingBagCollection(
        [
            Table(ROWS, 7, "sum", "first", ["a", "again"], padding_idx=0, sparse=True, dtype=dtype),
            Table(30, 33, "mean", "second", ["b"], sparse=True, dtype=dtype),
            Table(5, 3, "max" if max_mode else "sum", "third", ["c"], sparse=not max_mode),
            Table(ROWS, 130, "sum", "fourth", ["wide"], sparse=True),
        ]
    )


def batch(module: Any) -> dict[str, tuple[Tensor, Tensor]]:
    sizes = {
        name: module.tables[table].num_embeddings
        for name, table in zip(
            FEATURES, ("first", "second", "first", "third", "fourth"), strict=True
        )
    }
    return {name: (indices("zipf", 40, rows), offsets(40, BAGS)) for name, rows in sizes.items()}


def loss(module: nn.Module, inputs: Any, seed: int, **options: Any) -> Tensor:
    out = module(inputs, **options)
    generator = torch.Generator().manual_seed(seed)
    return (out * torch.randn(out.shape, generator=generator)).sum()


def assert_same_tables(module: nn.Module, expected: nn.Module) -> None:
    for (name, ours_), theirs in zip(module.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours_, theirs), name


def take_step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


@each_case
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_of_all_tables(case: str, weighted: bool, device: str) -> None:
    fused = collection()
    plain = copy.deepcopy(fused)
    optimizer, other = ours(case, fused.parameters()), ours(case, plain.parameters())
    optim.fuse_in_backward(optimizer, fused)
    for step in range(STEPS):
        inputs = batch(fused)
        factors = {"again": torch.randn(40), "wide": torch.randn(40)} if weighted else None
        loss(fused, inputs, step, per_sample_weights=factors).backward()
        assert all(table.weight.grad is None for table in fused.tables.values())
        loss(plain, inputs, step, per_sample_weights=factors).backward()
        take_step(other)
    assert_same_tables(fused, plain)
    for ours_, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        for name, value in other.state[theirs].items():
            assert torch.equal(optimizer.state[ours_][name], value), name


def test_maxima_and_gradients_of_weights(device: str) -> None:
    """The weights get the gradients that they have without fused tables."""
    fused = collection(max_mode=True)
    plain = copy.deepcopy(fused)
    optimizer = optim.Adagrad(fused.parameters(), lr=0.1)
    optim.fuse_in_backward(optimizer, fused)
    other = optim.Adagrad(plain.parameters(), lr=0.1)  # zero rows stay: dense equals sparse
    for step in range(STEPS):
        inputs = batch(fused)
        first, second = (torch.randn(40, requires_grad=True) for _ in range(2))
        second.data.copy_(first.data)
        loss(fused, inputs, step, per_sample_weights={"c": first}).backward()
        loss(plain, inputs, step, per_sample_weights={"c": second}).backward()
        assert torch.equal(first.grad, second.grad)
        take_step(other)
    assert_same_tables(fused, plain)


def test_an_optimizer_and_a_rate_for_each_table(device: str) -> None:
    def optimizers(module: Any) -> list[torch.optim.Optimizer]:
        weights = [table.weight for table in module.tables.values()]
        groups = [{"params": weights[:1]}, {"params": weights[1:2], "lr": 0.5}]
        return [
            optim.SGD(groups, lr=0.1),
            optim.RowWiseAdagrad(weights[2:3], lr=0.1),
            optim.Adam(weights[3:], lr=0.1),
        ]

    fused = collection()
    plain = copy.deepcopy(fused)
    ours_, theirs = optimizers(fused), optimizers(plain)
    for optimizer in ours_:
        tables = [p for group in optimizer.param_groups for p in group["params"]]
        optim.fuse_in_backward(optimizer, tables)
    for step in range(STEPS):
        inputs = batch(fused)
        loss(fused, inputs, step).backward()
        loss(plain, inputs, step).backward()
        for optimizer in theirs:
            take_step(optimizer)
    assert_same_tables(fused, plain)


def test_some_of_the_tables(device: str) -> None:
    """The others get their gradients, and a frozen one gets nothing."""
    fused = collection()
    fused.tables["third"].weight.requires_grad_(False)
    plain = copy.deepcopy(fused)
    optimizer, other = (optim.SGD([m.tables["second"].weight], lr=0.1) for m in (fused, plain))
    optim.fuse_in_backward(optimizer, fused.tables["second"])
    inputs = batch(fused)
    loss(fused, inputs, 1).backward()
    loss(plain, inputs, 1).backward()
    assert fused.tables["second"].weight.grad is None
    other.step()
    assert_same_tables(fused, plain)
    for name in ("first", "fourth"):
        ours_, theirs = fused.tables[name].weight.grad, plain.tables[name].weight.grad
        assert torch.equal(ours_.to_dense(), theirs.to_dense())


@pytest.mark.parametrize("max_mode", [False, True])
def test_tables_with_gradients_from_elsewhere(max_mode: bool, device: str) -> None:
    """Two calls, a lookup by itself and a penalty: one step by the sum, as ever."""

    def total(module: Any, inputs: Any, step: int) -> Tensor:
        alone = module.tables["second"](*inputs["b"]).square().sum()
        return (
            loss(module, inputs, step)
            + (loss(module, inputs, step + 100) if step % 2 else 0)
            + alone
            + module.tables["fourth"].weight.square().sum()
        )

    fused = collection(max_mode, torch.float64)
    plain = copy.deepcopy(fused)
    optimizer, other = (optim.Adagrad(m.parameters(), lr=0.1) for m in (fused, plain))
    optim.fuse_in_backward(optimizer, fused)
    for step in range(STEPS):
        inputs = batch(fused)
        total(fused, inputs, step).backward()
        total(plain, inputs, step).backward()
        take_step(other)
    for ours_, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        assert ours_.grad is None
        torch.testing.assert_close(ours_, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_that_are_asked_for(device: str) -> None:
    fused = collection()
    before = copy.deepcopy(fused)
    optimizer = optim.SGD(fused.parameters(), lr=0.1)
    optim.fuse_in_backward(optimizer, fused)
    inputs = batch(fused)
    out = loss(fused, inputs, 1)
    weights = [table.weight for table in fused.tables.values()]
    found = torch.autograd.grad(out, weights, retain_graph=True)
    assert all(gradient is not None for gradient in found)
    assert_same_tables(fused, before)
    with pytest.raises(RuntimeError, match="create_graph"):
        out.backward(create_graph=True)
    assert_same_tables(fused, before)


def update_arguments(rounding: str, rule: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    dtype = torch.bfloat16 if rounding != "nearest" else torch.float32
    weights = [torch.randn(rows, dim).to(dtype) for rows, dim in ((9, 3), (5, 7), (4, 2))]
    state = []
    for t in (0, 2):
        shape = weights[t].shape
        state.append(torch.rand(shape[:1] if rule == "row_wise_adagrad" else shape))
        if rounding == "split":
            state.append(torch.zeros(shape, dtype=torch.int16))
    starts = torch.tensor([0, 2, 2, 5, 6, 6, 8])
    lookups = torch.tensor([8, 1, 1, 4, 0, 4, 3, 3])
    grad = torch.randn(2, 12).to(dtype)
    options = {"rule": rule, "lr": 0.5, "eps": 0.5, "rounding": rounding, "seed": 3, "step": 2}
    modes, padding = [0, 1, 0], [1, -1, -1]
    arguments = (weights, state, grad, lookups, starts, None, None, modes, None, padding, [0, 2])
    return arguments, options


@on_the_cpu
@pytest.mark.parametrize("rule", ["adagrad", "row_wise_adagrad"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "split"])
def test_the_operator(rule: str, rounding: str, device: str) -> None:
    arguments, options = update_arguments(rounding, rule)
    torch.library.opcheck(ops.embedding_bag_tables_update_.default, arguments, options)


@on_the_cpu
def test_bad_input_leaves_everything_as_it_was(device: str) -> None:
    arguments, options = update_arguments("nearest", "adagrad")
    written = [*arguments[0], *arguments[1]]
    before = [tensor.clone() for tensor in written]

    def refused(place: int, value: Any, message: str, **other: Any) -> None:
        changed = list(arguments)
        changed[place] = value
        with pytest.raises((RuntimeError, ValueError, IndexError), match=message):
            ops.embedding_bag_tables_update_(*changed, **options | other)
        for tensor, expected in zip(written, before, strict=True):
            assert torch.equal(tensor, expected)

    refused(3, torch.tensor([8, 1, 1, 4, 0, 4, 3, 4]), "value 4 .* table 2")
    refused(10, [0, 3], r"updated_tables\[1\] is 3")
    refused(10, [2, 2], r"updated_tables\[1\] is 2, as one before it")
    refused(1, arguments[1][:1], "state tensors")
    refused(1, arguments[1][::-1], r"state\[0\]")
    refused(4, torch.tensor([0, 2, 1, 5, 6, 6, 8]), "decrease")
    refused(2, arguments[2][:, :-1], "grad_output")
    refused(0, arguments[0], "rule", rule="sdg")
    refused(0, arguments[0], "lr", lr=-1.0)
