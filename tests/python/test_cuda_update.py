"""embedding_update_ of the CUDA kernels gives the bits of the CPU's: weights and states.

On simulated GPUs, and on a real one. docs/numbers.md promises it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import simulator
import torch
from gpus import Gpu, compare, needs_cudasim
from inputs import FLOAT_DTYPES, indices, variants
from test_cuda_bits import randn, starts_of
from test_cuda_edges import canonical
from torch import Tensor

update_ = torch.ops.myemb.embedding_update_

RULES: dict[str, dict[str, Any]] = {
    "sgd": {"rule": "sgd"},
    "momentum": {"rule": "sgd", "momentum": 0.9, "dampening": 0.25, "weight_decay": 0.01},
    "nesterov": {"rule": "sgd", "momentum": 0.9, "nesterov": True, "maximize": True},
    "adagrad": {"rule": "adagrad", "eps": 1e-10, "weight_decay": 0.1},
    "row_wise_adagrad": {"rule": "row_wise_adagrad", "eps": 1e-8},
    "row_wise_adagrad decay": {"rule": "row_wise_adagrad", "eps": 1e-8, "weight_decay": 0.1},
    "adam": {"rule": "adam", "eps": 1e-8, "beta1": 0.9, "beta2": 0.999},
    "adamw": {"rule": "adam", "eps": 1e-8, "beta1": 0.9, "beta2": 0.99, "shrink": 0.001},
    "amsgrad": {"rule": "adam", "eps": 1e-8, "beta1": 0.5, "beta2": 0.7, "amsgrad": True},
}
STATES = {"momentum": 1, "nesterov": 1, "adagrad": 1, "adam": 2, "adamw": 2, "amsgrad": 3}

WIDTHS = (1, 3, 7, 16, 33, 40, 130, 132, 514)
KINDS = [(dtype, "nearest") for dtype in FLOAT_DTYPES]
KINDS += [(dtype, "stochastic") for dtype in (torch.float16, torch.bfloat16)]
KINDS += [(torch.bfloat16, "split")]

rules = pytest.mark.parametrize("rule", RULES)
kinds = pytest.mark.parametrize(("dtype", "rounding"), KINDS)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and what a rule keeps of it."""

    rule: str
    dtype: torch.dtype
    rounding: str
    weight: Tensor
    states: tuple[Tensor, ...]

    @classmethod
    def of(cls, rule: str, dtype: torch.dtype, rounding: str, size: int, width: int) -> Table:
        weight, states = randn(size, width, dtype=dtype), []
        type = torch.float64 if dtype == torch.float64 else torch.float32
        if rule.startswith("row_wise"):
            states.append(torch.rand(size, dtype=type))
        states += [torch.rand(size, width, dtype=type) for _ in range(STATES.get(rule, 0))]
        if rounding == "split":
            low = torch.randint(-(2**15), 2**15, (size, width))
            states.append(low.to(torch.int16))
        return cls(rule, dtype, rounding, weight, tuple(states))

    def check(
        self,
        gpu: Gpu,
        grad: Any,
        steps: int = 2,
        before: int = 0,
        changes: dict[str, Any] | None = None,
        **lookups: Any,
    ) -> None:
        """Some steps with ``grad(*tensors)``, or ``grad`` itself, give the bits of the CPU.

        ``before`` them were others.
        """
        names = [name for name, value in lookups.items() if isinstance(value, Tensor)]
        make = grad if callable(grad) else lambda grad: grad
        parts = grad.parts if callable(grad) else (grad,)
        options = RULES[self.rule] | {"lr": 0.05, "rounding": self.rounding, "seed": 2**40 + 7}
        options |= changes or {}

        def run(*tensors: Tensor) -> list[Tensor]:
            weight, *rest = tensors
            states, rest = rest[: len(self.states)], rest[len(self.states) :]
            parts_here, rest = rest[: len(parts)], rest[len(parts) :]
            call = lookups | dict(zip(names, rest, strict=True))
            for step in range(before + 1, before + steps + 1):
                update_(weight, states, make(*parts_here), **call, **options, step=step)
            return canonical([weight, *states])

        values = (lookups[name] for name in names)
        compare(gpu, run, self.weight, *self.states, *parts, *values)
        if gpu.arch is not None:  # the CPU kernels would agree with themselves
            calls = simulator.module.calls()
            assert [call["op"] for call in calls] == ["embedding_update_"] * steps


class Sparse:
    """An uncoalesced COO gradient."""

    def __init__(self, rows: Tensor, values: Tensor, size: int) -> None:
        self.parts = (rows, values)
        self.shape = (size, values.size(1))

    def __call__(self, rows: Tensor, values: Tensor) -> Tensor:
        return torch.sparse_coo_tensor(
            rows.view(1, -1), values, self.shape, check_invariants=False, is_coalesced=False
        )


@rules
@kinds
@pytest.mark.parametrize("width", WIDTHS)
def test_dense_and_sparse_gradients(
    rule: str, dtype: torch.dtype, rounding: str, width: int, gpu: Gpu
) -> None:
    table = Table.of(rule, dtype, rounding, 9, width)
    table.check(gpu, randn(9, width, dtype=dtype))
    rows = indices("zipf", 40, 9)
    table.check(gpu, Sparse(rows, randn(40, width, dtype=dtype), 9))


@rules
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    ("weight_decay", "shrink"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_all_rules_have(
    rule: str, maximize: bool, weight_decay: float, shrink: float, dtype: torch.dtype, gpu: Gpu
) -> None:
    changes = {"maximize": maximize, "weight_decay": weight_decay, "shrink": shrink}
    for width in (5, 100):
        table, rows = Table.of(rule, dtype, "nearest", 40, width), indices("uniform", 50, 40)
        table.check(gpu, randn(40, width, dtype=dtype), changes=changes)
        table.check(gpu, Sparse(rows, randn(50, width, dtype=dtype), 40), changes=changes)


@pytest.mark.parametrize("mode", [0, 1, 2], ids=["sum", "mean", "max"])
@rules
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [7, 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_bags(
    mode: int, rule: str, dtype: torch.dtype, width: int, weighted: bool, gpu: Gpu
) -> None:
    index_dtype = torch.int32 if weighted else torch.int64
    rows, starts = indices("zipf", 60, 12, index_dtype), torch.tensor([0, 3, 3, 4, 30])
    factors = randn(60, dtype=dtype) if weighted else None
    grad, padding_idx = randn(5, width, dtype=dtype), 3 if weighted else None
    positions = None
    if mode == 2:
        arguments = (starts, factors, False, padding_idx)
        weight = randn(12, width, dtype=dtype)
        positions = torch.ops.myemb.embedding_bag_max(weight, rows, *arguments)[1]
    for frequency in (False,) if mode == 2 else (False, True):
        Table.of(rule, dtype, "nearest", 12, width).check(
            gpu,
            grad,
            indices=rows,
            offsets=starts,
            positions=positions,
            per_sample_weights=factors,
            scale_grad_by_freq=frequency,
            bag_mode=mode,
            padding_idx=padding_idx,
        )


@rules
@pytest.mark.parametrize(
    ("dtype", "rounding", "width"), [(*kind, 20 - i % 2) for i, kind in enumerate(KINDS[1:])]
)
@pytest.mark.parametrize("frequency", [False, True])
def test_one_row_of_many_lookups(
    rule: str, dtype: torch.dtype, rounding: str, width: int, frequency: bool, gpu: Gpu
) -> None:
    """Sums of several chunks, which meet their row in another kernel."""
    rows = torch.full((600,), 5)
    rows[::50] = 3
    table, grad = Table.of(rule, dtype, rounding, 8, width), randn(600, width, dtype=dtype)
    lookups = {"indices": rows.view(-1, 1), "scale_grad_by_freq": frequency, "padding_idx": 3}
    table.check(gpu, grad, steps=1, **lookups)


@pytest.mark.parametrize("rule", ["sgd", "row_wise_adagrad decay", "amsgrad"])
@pytest.mark.parametrize(("dtype", "rounding"), [KINDS[1], *KINDS[4:]])
@pytest.mark.parametrize("width", [9, 16])
def test_many_runs_short_and_long(
    rule: str, dtype: torch.dtype, rounding: str, width: int, gpu: Gpu
) -> None:
    """Several groups of a warp with rows of their own, and more chunks than are joined at once."""
    often = torch.tensor([5, 70, 299]).repeat_interleave(torch.tensor([2500, 300, 700]))
    rows = torch.cat([often, indices("uniform", 500, 300)])[torch.randperm(4000)]
    table = Table.of(rule, dtype, rounding, 300, width)
    table.check(gpu, Sparse(rows, randn(4000, width, dtype=dtype), 300), steps=1)


@pytest.mark.parametrize("rule", ["momentum", "row_wise_adagrad"])
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_bags_and_rows_of_every_length(rule: str, mode: int, dtype: torch.dtype, gpu: Gpu) -> None:
    lengths = (0, 1, 31, 32, 33, 255, 0, 256, 257, 513, 0)
    size, starts = sum(lengths), starts_of(lengths)
    rows, grad = indices("zipf", size, 40), randn(len(lengths), 9, dtype=dtype)
    factors, positions = randn(size, dtype=dtype), None
    if mode == 2:
        weight = randn(40, 9, dtype=dtype)
        positions = torch.ops.myemb.embedding_bag_max(weight, rows, starts, factors)[1]
    lookups = {"indices": rows, "offsets": starts, "positions": positions, "bag_mode": mode}
    table = Table.of(rule, dtype, "nearest", 40, 9)
    table.check(gpu, grad, steps=1, per_sample_weights=factors, padding_idx=7, **lookups)


@pytest.mark.parametrize("rule", ["sgd", "row_wise_adagrad decay", "amsgrad"])
@pytest.mark.parametrize(("dtype", "rounding"), [KINDS[1], KINDS[-2], KINDS[-1]])
@pytest.mark.parametrize("width", [2049, 4100])
def test_wide_rows(rule: str, dtype: torch.dtype, rounding: str, width: int, gpu: Gpu) -> None:
    table, rows = Table.of(rule, dtype, rounding, 4, width), torch.tensor([3, 1, 1])
    table.check(gpu, randn(4, width, dtype=dtype), steps=1)
    table.check(gpu, Sparse(rows, randn(3, width, dtype=dtype), 4), steps=1)


@pytest.mark.parametrize("layout", ["strided", "offset", "transposed"])
@pytest.mark.parametrize("rule", ["nesterov", "row_wise_adagrad"])
@pytest.mark.parametrize(("dtype", "rounding"), [KINDS[1], KINDS[-1]])
def test_any_layout(layout: str, rule: str, dtype: torch.dtype, rounding: str, gpu: Gpu) -> None:
    table = Table.of(rule, dtype, rounding, 9, 16)
    states = tuple(variants(state)[layout] if state.dim() == 2 else state for state in table.states)
    for weight, kept in (
        (variants(table.weight)[layout], table.states),
        (table.weight, states),
    ):
        laid_out = dataclasses.replace(table, weight=weight, states=kept)
        laid_out.check(gpu, variants(randn(9, 16, dtype=dtype))[layout])
        grad = variants(randn(6, 16, dtype=dtype))[layout]
        rows = variants(indices("uniform", 18, 9).view(6, 3))[layout]
        laid_out.check(gpu, grad, indices=rows, bag_mode=1)


@rules
@pytest.mark.parametrize("width", [0, 1, 16])
def test_nothing_to_update(rule: str, width: int, gpu: Gpu) -> None:
    none = torch.empty(0, dtype=torch.int64)
    table = Table.of(rule, torch.float32, "nearest", 3, width)
    table.check(gpu, Sparse(none, randn(0, width), 3))
    table.check(gpu, randn(0, width), indices=none.view(0, 1))
    table.check(gpu, randn(2, width), indices=none, offsets=torch.tensor([0, 0]))
    table.check(gpu, randn(1, width), indices=torch.tensor([[1, 1]]), padding_idx=1)
    table.check(gpu, randn(3, width))
    Table.of(rule, torch.float32, "nearest", 0, width).check(gpu, randn(0, width))


@kinds
@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_numbers_of_every_size(rule: str, dtype: torch.dtype, rounding: str, gpu: Gpu) -> None:
    """Subnormal ones, those that overflow, signed zeros and infinities."""
    table, info = Table.of(rule, dtype, rounding, 40, 20), torch.finfo(dtype)
    low, high = math.log2(info.smallest_normal) - 12, math.log2(info.max)
    low, high = max(low, -150), min(high, 128)  # of fp64 those that fp32 has, too

    def sizes() -> Tensor:
        exponents = low + (high - low) * torch.rand(40, 20, dtype=torch.float64)
        return torch.randn(40, 20).sign() * 2**exponents

    table.weight.copy_(sizes())
    table.weight[0, :4] = torch.tensor([0.0, -0.0, float("inf"), -float("inf")])
    table.check(gpu, sizes().to(dtype), steps=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_random_bits_depend_on_row_column_seed_and_step(dtype: torch.dtype) -> None:
    """Each of them alone changes how a weight is rounded, on the CPU: compare() does the rest."""
    weight = torch.ones(2, 16, dtype=dtype)
    grad = torch.full_like(weight, -torch.finfo(dtype).eps / 2)

    def updated(**options: int) -> Tensor:
        table = weight.clone()
        update_(table, [], grad, rule="sgd", lr=1.0, rounding="stochastic", **options)
        return table

    first = updated(seed=1, step=1)
    assert torch.equal(first, updated(seed=1, step=1))
    assert not torch.equal(first, updated(seed=2, step=1))
    assert not torch.equal(first, updated(seed=1, step=2))
    assert not torch.equal(first[0], first[1])
    assert first.unique().numel() == 2


# ---- refused ---------------------------------------------------------------------------------


def bad_calls(bad: int) -> list[tuple[Tensor | Sparse, dict[str, Any]]]:
    rows = torch.tensor([8, 0, bad, 3])
    matrix, starts = rows.view(2, 2), torch.tensor([0, 1])
    weights = torch.ones(2, 2)
    return [
        (Sparse(rows, randn(4, 16), 9), {}),
        (randn(4, 16), {"indices": rows.view(4, 1)}),
        (randn(2, 16), {"indices": rows.int(), "offsets": starts, "bag_mode": 1}),
        (randn(2, 16), {"indices": matrix, "per_sample_weights": weights}),
    ]


@pytest.mark.parametrize("rule", ["sgd", "row_wise_adagrad", "adam"])
@pytest.mark.parametrize("bad", [-1, 9, 2**31 - 1])
@simulator.fatal_on_a_gpu
def test_a_bad_index_is_refused_and_nothing_is_written(rule: str, bad: int, device: str) -> None:
    table = Table.of(rule, torch.float32, "nearest", 9, 16)
    tensors = [table.weight, *table.states]
    before = [tensor.clone() for tensor in tensors]
    for grad, lookups in bad_calls(bad):
        made = grad(*grad.parts) if isinstance(grad, Sparse) else grad
        with simulator.refused(IndexError, "index", "index out of range"):
            update_(table.weight, table.states, made, lr=0.1, **RULES[rule], **lookups)
        for tensor, old in zip(tensors, before, strict=True):
            assert torch.equal(tensor, old)


@needs_cudasim
@pytest.mark.parametrize("arch", simulator.ARCHITECTURES)
def test_a_bad_index_is_refused_by_name(arch: int) -> None:
    table = Table.of("adam", torch.float32, "nearest", 9, 16)
    for grad, lookups in bad_calls(9):
        made = grad(*grad.parts) if isinstance(grad, Sparse) else grad
        with (
            simulator.simulation(arch),
            pytest.raises(RuntimeError, match="myemb::embedding_update_: index out of range"),
        ):
            update_(table.weight, table.states, made, lr=0.1, **RULES["adam"], **lookups)


@simulator.fatal_on_a_gpu
@pytest.mark.parametrize("starts", [[1, 2], [0, 5], [2, 1]])
def test_bad_offsets_are_refused_and_nothing_is_written(starts: list[int], device: str) -> None:
    table = Table.of("adam", torch.float32, "nearest", 9, 16)
    before, rows = table.weight.clone(), torch.tensor([1, 2, 3])
    with simulator.refused(RuntimeError, "offsets", "offsets"):
        update_(
            table.weight,
            table.states,
            randn(2, 16),
            rows,
            torch.tensor(starts),
            lr=0.1,
            **RULES["adam"],
        )
    assert torch.equal(table.weight, before)


@needs_cudasim
def test_the_order_of_blocks_and_warps_changes_no_bit() -> None:
    rows = indices("zipf", 1500, 60)
    rows[:600] = 7
    for rule in ("sgd", "row_wise_adagrad decay", "adam"):
        table = Table.of(rule, torch.bfloat16, "stochastic", 60, 20)
        grad = Sparse(rows, randn(1500, 20, dtype=torch.bfloat16), 60)
        for arch in simulator.ARCHITECTURES:
            for seed in (1, 2, 3):
                table.check(Gpu(arch, seed), grad, steps=1)
