"""Checks of tables that are DTensors, which run in every process; see test_distributed.py."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
import torch.distributed as dist
import torch.nn.functional as F
from optimizers import CASES, Oracle, ours
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import Parameter

import myemb
from myemb.functional import embedding, embedding_bag

ROWS, WIDTH, BAGS, LENGTH = 21, 6, 8, 5  # rows that do not divide evenly
TABLES: tuple[Placement, ...] = (Shard(0), Shard(1), Replicate())
OFFSETS = torch.tensor([0, 3, 3, 10, 11, 30, 38])
Layout = tuple[Placement, ...]


BAG_CASES: tuple[dict[str, Any], ...] = (
    {"mode": "sum", "by_offsets": True, "weighted": True, "padding_idx": -18},
    {"mode": "sum", "by_offsets": False, "weighted": True, "padding_idx": 18},
    {"mode": "sum", "by_offsets": False, "weighted": False, "scale_grad_by_freq": True},
    {"mode": "mean", "by_offsets": True, "weighted": False, "padding_idx": 3},
    {"mode": "mean", "by_offsets": False, "weighted": True, "padding_idx": -3},
    {"mode": "mean", "by_offsets": True, "weighted": True, "scale_grad_by_freq": True},
    {"mode": "max", "by_offsets": True, "weighted": True, "padding_idx": 3},
    {"mode": "max", "by_offsets": False, "weighted": False},
)


def place(tensor: Tensor, mesh: DeviceMesh, placements: Layout) -> Any:
    """Every process has all of it already."""
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def layouts(*of_inputs: Placement) -> Iterator[tuple[DeviceMesh, Layout, Layout]]:
    """Placements of a table and its input: of two processes in a row, or four in a square."""
    mesh = init_device_mesh("cpu", (2, 2) if dist.get_world_size() == 4 else (2,))
    for table in itertools.product(TABLES, repeat=mesh.ndim):
        for of_input in of_inputs:
            yield mesh, table, (of_input, Replicate())[: mesh.ndim]


def everywhere(tensor: Tensor, mesh: DeviceMesh) -> Any:
    return place(tensor, mesh, (Replicate(),) * mesh.ndim)


def results_of(function: Any, leaves: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """The output, the gradients, and the table, which max_norm changes."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream), leaves[0].detach()]


def sharded_results_of(
    function: Any,
    leaves: list[Tensor],
    placements: list[Layout],
    upstream: Tensor,
    mesh: DeviceMesh,
) -> list[Tensor]:
    parameters = [
        Parameter(place(leaf.clone(), mesh, layout))
        for leaf, layout in zip(leaves, placements, strict=True)
    ]
    output = function(*parameters)
    output = output.redistribute(placements=[Replicate()] * mesh.ndim)
    output.backward(everywhere(upstream, mesh))
    # A process has the gradient of what it has of the table, and not that of the whole table.
    table: Any = parameters[0]
    assert table.grad.placements == table.placements
    tensors = [output, *(p.grad for p in parameters), table]
    return [tensor.detach().full_tensor() for tensor in tensors]


def check_equal(actual: list[Tensor], expected: list[Tensor], case: Any) -> None:
    assert len(actual) == len(expected)
    for ours_, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours_, theirs, msg=lambda text: f"{case}: {text}")


def lookups_in_every_layout() -> None:
    indices = torch.randint(ROWS, (BAGS, LENGTH))
    table = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    upstream = torch.randn(BAGS, LENGTH, WIDTH, dtype=torch.float64)
    options: dict[str, Any]
    for mesh, of_table, of_input in layouts(Replicate(), Shard(0), Shard(1)):
        for options in (
            {"padding_idx": -18},
            {"scale_grad_by_freq": True, "padding_idx": 18},
            {"max_norm": 1.5, "norm_type": 1.0},
        ):
            if "max_norm" in options and Shard(1) in of_table:
                continue
            placed = place(indices, mesh, of_input)
            actual = sharded_results_of(
                lambda table: embedding(placed, table, **options),  # noqa: B023
                [table],
                [of_table],
                upstream,
                mesh,
            )
            expected = results_of(
                lambda table: F.embedding(indices, table, **options),  # noqa: B023
                [table],
                upstream,
            )
            check_equal(actual, expected, (mesh, of_table, of_input, options))


def bags_in_every_layout() -> None:
    table = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    for mesh, of_table, of_input in layouts(Replicate(), Shard(0)):
        for case in BAG_CASES:
            options = dict(case)
            by_offsets, weighted = options.pop("by_offsets"), options.pop("weighted")
            if options["mode"] == "max" and Shard(0) in of_table:
                continue
            shape = (BAGS * LENGTH,) if by_offsets else (BAGS, LENGTH)
            indices = torch.randint(ROWS, shape)
            factors = torch.randn(shape, dtype=torch.float64)
            bags = len(OFFSETS) if by_offsets else BAGS
            upstream = torch.randn(bags, WIDTH, dtype=torch.float64)
            placed = place(indices, mesh, of_input)
            starts = everywhere(OFFSETS, mesh) if by_offsets else None

            def bag(table: Tensor, factors: Tensor | None = None) -> Tensor:
                return embedding_bag(placed, table, starts, per_sample_weights=factors, **options)  # noqa: B023

            def reference_bag(table: Tensor, factors: Tensor | None = None) -> Tensor:
                offsets = OFFSETS if by_offsets else None  # noqa: B023
                return reference.bag(table, indices, offsets, per_sample_weights=factors, **options)  # noqa: B023

            leaves = [table, factors] if weighted else [table]
            placements = [of_table, of_input][: len(leaves)]
            actual = sharded_results_of(bag, leaves, placements, upstream, mesh)
            expected = results_of(reference_bag, leaves, upstream)
            check_equal(actual, expected, (mesh, of_table, of_input, case))


def placements_of_results() -> None:
    """What docs/distributed.md says of them."""
    table, indices = torch.randn(ROWS, WIDTH), torch.randint(ROWS, (BAGS, LENGTH))
    for mesh, of_table, of_input in layouts(Replicate(), Shard(0), Shard(1)):
        placed, sharded = place(indices, mesh, of_input), place(table, mesh, of_table)
        for function, column_dim, batch_dims in ((embedding, 2, (0, 1)), (embedding_bag, 1, (0,))):
            output: Any = function(placed, sharded)
            expected: list[Placement] = []
            for part, batch in zip(of_table, of_input, strict=True):
                if isinstance(part, Shard):
                    expected.append(Partial() if part.dim == 0 else Shard(column_dim))
                else:
                    is_split = isinstance(batch, Shard) and batch.dim in batch_dims
                    expected.append(batch if is_split else Replicate())
            assert list(output.placements) == expected


def renormed_bags_and_last_offsets() -> None:
    indices = torch.randint(ROWS, (BAGS * LENGTH,), dtype=torch.uint8)
    offsets = torch.cat([OFFSETS, torch.tensor([len(indices)])])
    table = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    upstream = torch.randn(len(OFFSETS), WIDTH, dtype=torch.float64)
    options: dict[str, Any] = {"max_norm": 1.0, "mode": "mean", "include_last_offset": True}
    for mesh, of_table, of_input in layouts(Replicate()):
        if Shard(1) in of_table:
            continue
        placed = place(indices, mesh, of_input)
        actual = sharded_results_of(
            lambda table: embedding_bag(placed, table, everywhere(offsets, mesh), **options),  # noqa: B023
            [table],
            [of_table],
            upstream,
            mesh,
        )
        expected = results_of(
            lambda table: F.embedding_bag(indices.long(), table, offsets, **options),
            [table],
            upstream,
        )
        check_equal(actual, expected, (mesh, of_table))


def small_tables_and_16_bits() -> None:
    """Processes without a row; means that would overflow as sums."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    table = torch.full((3, 2), 100.0, dtype=torch.float16)
    sharded = Parameter(place(table, mesh, (Shard(0),)))
    many = torch.arange(50_001).reshape(1, -1) % 3
    output: Any = embedding_bag(everywhere(many, mesh), sharded, mode="mean")
    mean = torch.full((1, 2), 100.0).half()
    torch.testing.assert_close(output.full_tensor(), mean, rtol=6e-4, atol=0)
    indices = many[:, :4096]
    rows: Any = embedding(everywhere(indices, mesh), sharded)
    assert torch.equal(rows.full_tensor(), table[indices])
    rows.redistribute(placements=[Replicate()]).backward(
        everywhere(torch.ones(1, 4096, 2, dtype=torch.float16), mesh)
    )
    counts = indices.flatten().bincount().half().unsqueeze(1).expand(3, 2)
    gradient: Any = sharded.grad
    assert torch.equal(gradient.full_tensor(), counts)


def what_is_refused() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    table = torch.randn(ROWS, WIDTH)
    by_rows, by_columns = (Parameter(place(table, mesh, (Shard(dim),))) for dim in (0, 1))
    good = everywhere(torch.tensor([[1, 2]]), mesh)
    for bad in (-1, ROWS):
        indices = everywhere(torch.tensor([[1, bad]]), mesh)
        for weight in (by_rows, by_columns):
            with pytest.raises(IndexError, match="index out of range in self"):
                embedding(indices, weight)
            with pytest.raises(RuntimeError, match="range"):
                embedding_bag(indices, weight)
    with pytest.raises(IndexError):
        embedding(everywhere(torch.tensor([1, ROWS]), mesh), by_rows, max_norm=0.1)
    assert torch.equal(by_rows.full_tensor(), table), "no row is renormed before an error"
    with pytest.raises(RuntimeError, match="offsets"):
        embedding_bag(
            everywhere(torch.tensor([1, 2]), mesh), by_rows, everywhere(torch.tensor([0, 3]), mesh)
        )
    with pytest.raises(RuntimeError, match="got mixed"):
        embedding(torch.tensor([1]), by_rows)
    with pytest.raises(RuntimeError, match="got mixed"):
        embedding_bag(good, by_rows, per_sample_weights=torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="mixed"):
        embedding(good, table)
    with pytest.raises(NotImplementedError, match="sharded by rows"):
        embedding_bag(good, by_rows, mode="max")
    with pytest.raises(NotImplementedError, match="whole rows"):
        embedding(good, by_columns, max_norm=1.0)
    with pytest.raises(NotImplementedError, match="sparse"):
        embedding(good, by_rows, sparse=True)
    with pytest.raises(NotImplementedError, match="whole rows"):
        step("row wise", by_columns, table)
    optimizer = myemb.optim.SGD([by_rows])
    with pytest.raises(NotImplementedError, match="DTensor"):
        myemb.optim.fuse_in_backward(optimizer, by_rows)


def step(case: str, table: Any, gradient: Tensor) -> torch.optim.Optimizer:
    optimizer = ours(case, [table])
    table.grad = everywhere(gradient, table.device_mesh)
    optimizer.step()
    return optimizer


def every_optimizer_of_ours() -> None:
    for (mesh, of_table, _), case in itertools.product(layouts(Replicate()), CASES):
        if case.startswith("row wise") and Shard(1) in of_table:
            continue
        table = torch.randn(ROWS, WIDTH, dtype=torch.float64)
        sharded: Any = Parameter(place(table.clone(), mesh, of_table))
        optimizer, oracle = ours(case, [sharded]), Oracle(case, table)
        for _ in range(3):
            gradient = torch.randn(ROWS, WIDTH, dtype=torch.float64)
            sharded.grad = everywhere(gradient, mesh)
            optimizer.step()
            oracle.step(gradient)
        torch.testing.assert_close(sharded.full_tensor(), oracle.weight)
        for name, state in optimizer.state[sharded].items():
            assert name == "step" or state.placements == sharded.placements


class Model(nn.Module):
    def __init__(self, library: Any) -> None:
        super().__init__()
        self.rows, self.columns = library.Embedding(ROWS, 8), library.Embedding(16, 8)
        self.linear = nn.Linear(8, 1)

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        output: Tensor = self.linear(self.rows(rows) * self.columns(columns))
        return output


def a_plan_for_a_model() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {
        "rows": RowwiseParallel(input_layouts=Replicate()),
        "columns": ColwiseParallel(output_layouts=Replicate()),
    }
    for optimizer_class, theirs, options in (
        (torch.optim.AdamW, torch.optim.AdamW, {"foreach": True}),
        (myemb.optim.AdamW, torch.optim.AdamW, {}),
        (myemb.optim.SGD, torch.optim.SGD, {"momentum": 0.9}),
    ):
        torch.manual_seed(0)
        single = Model(nn)
        model = Model(nn)
        model.load_state_dict(single.state_dict())
        parallelize_module(myemb.replace_embeddings_(model), mesh, plan)
        # A group each: torch's foreach takes no DTensors beside other tensors.
        groups = [{"params": list(part.parameters())} for part in model.children()]
        optimizers = optimizer_class(groups, **options), theirs(single.parameters(), **options)
        for _ in range(3):
            rows, columns = torch.randint(ROWS, (BAGS,)), torch.randint(16, (BAGS,))
            for of, optimizer in zip((model, single), optimizers, strict=True):
                optimizer.zero_grad()
                of(rows, columns).square().mean().backward()
                optimizer.step()
        for name, parameter in model.named_parameters():
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            torch.testing.assert_close(whole, single.get_parameter(name))


def compiled_lookups() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    indices, upstream = torch.randint(ROWS, (BAGS,)), torch.randn(BAGS, WIDTH)
    single = nn.Embedding(ROWS, WIDTH)
    model = myemb.replace_embeddings_(copy.deepcopy(single))
    plan = RowwiseParallel(input_layouts=Replicate())
    compiled = torch.compile(
        parallelize_module(model, mesh, plan), backend="aot_eager", fullgraph=True
    )
    output = compiled(indices)
    assert torch.equal(output, single(indices))
    output.backward(upstream)
    single(indices).backward(upstream)
    gradient: Any = model.weight.grad
    torch.testing.assert_close(gradient.full_tensor(), single.weight.grad)


def examples_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(block, names)
    words, positions, bags = (
        module.weight.full_tensor() for module in (*names["model"].values(), names["bags"])
    )
    torch.testing.assert_close(names["vectors"], words[[7, 999]] + positions[:2])
    torch.testing.assert_close(names["means"], torch.stack([bags[[7, 999]].mean(0), bags[3]]))


CHECKS = (
    lookups_in_every_layout,
    bags_in_every_layout,
    placements_of_results,
    renormed_bags_and_last_offsets,
    small_tables_and_16_bits,
    what_is_refused,
    every_optimizer_of_ours,
    a_plan_for_a_model,
    examples_of_the_page,
)
CHECKS_OF_TWO = (compiled_lookups,)
