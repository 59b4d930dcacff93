"""Where the kernels of updates could be wrong and ordinary inputs would not show it.

`make mutate` says which changes of a kernel the tests do not notice; what it found is here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import simulator
import torch
from gpus import Gpu, assert_same_bits, needs_cudasim
from huge_tests import mapped
from inputs import FLOAT_DTYPES, indices, variants
from tables import make_call
from test_cuda_bits import randn, starts_of
from test_cuda_edges import INF, LENGTHS, NAN, WIDTHS, Chance, canonical
from test_cuda_tables_update import Step
from test_cuda_update import KINDS, RULES, Sparse, Table, kinds, update_
from torch import Tensor

# One for each kernel; the others of RULES are options of these.
KERNELS = ("sgd", "momentum", "adagrad", "row_wise_adagrad decay", "adam", "amsgrad")
LAYOUTS = ("contiguous", "strided", "offset", "transposed")


@pytest.mark.parametrize("seed", range(len(RULES) * len(KINDS)))
def test_random_updates(seed: int, gpu: Gpu) -> None:
    chance = Chance(seed)
    rule, (dtype, rounding) = list(RULES)[seed % len(RULES)], KINDS[seed // len(RULES)]
    size, width = chance.choice((1, 3, 40, 300)), chance.choice(WIDTHS)
    table = Table.of(rule, dtype, rounding, size, width)
    table.weight.copy_(chance.values(size, width, dtype=dtype))
    changes = {name: chance.choice((0.0, 0.1)) for name in ("weight_decay", "shrink")}
    changes |= {"lr": chance.choice((0.05, 2.0)), "maximize": chance.sometimes()}
    lengths = [chance.choice((*LENGTHS, 2305)) for _ in range(chance.choice((1, 2, 7)))]
    count = sum(lengths)
    if chance.sometimes(0.3):
        dense = chance.values(size, width, dtype=dtype)
        rows = chance.rows(count, size).long()
        grad = chance.choice((dense, Sparse(rows, chance.values(count, width, dtype=dtype), size)))
        table.check(gpu, grad, before=chance.choice((0, 2**32)), changes=changes)
        return
    rows, mode = chance.rows(count, size), chance.choice((0, 1, 2))
    bags: dict[str, Any] = {"offsets": starts_of(tuple(lengths))}
    bags["per_sample_weights"] = chance.values(count, dtype=dtype) if chance.sometimes() else None
    bags["padding_idx"] = chance.choice((None, 0, size - 1))
    if mode == 2:
        maxima = torch.ops.myemb.embedding_bag_max(table.weight, rows, **bags)
        bags["positions"] = maxima[1]
    else:
        bags["scale_grad_by_freq"] = chance.sometimes()
    grad = chance.values(len(lengths), width, dtype=dtype)
    grad = variants(grad)[chance.choice(LAYOUTS)]
    table.check(gpu, grad, changes=changes, indices=rows, bag_mode=mode, **bags)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [20, 68, 132, 17, 65, 129])
def test_mean_squares_of_every_width(dtype: torch.dtype, width: int, gpu: Gpu) -> None:
    """What is left of a row behind the columns that threads read together, and of a few lookups."""
    counts = torch.tensor([1, 2, 3, 4, 5, 1100 if width in (129, 132) else 0, 7, 8, 9])
    rows = torch.arange(9).repeat_interleave(counts)
    size, starts = len(rows), torch.tensor([0, 8, 8, 9, 31])
    rows, factors = rows[torch.randperm(size)], randn(2 * size, dtype=dtype)

    def table() -> Table:
        return Table.of("row_wise_adagrad decay", dtype, "nearest", 9, width)

    one, lookups = table(), {"indices": rows, "offsets": starts}
    lookups |= {"per_sample_weights": factors[:size]}
    positions = torch.ops.myemb.embedding_bag_max(one.weight, rows, starts, factors[:size])[1]
    grad = randn(5, width, dtype=dtype)
    one.check(gpu, grad, steps=1, bag_mode=0, scale_grad_by_freq=True, **lookups)
    one.check(gpu, grad, steps=1, bag_mode=2, positions=positions, **lookups)
    for mode in ("sum", "max"):
        call = make_call((width, width), (mode,), num_bags=5, longest=0)
        call.lookups, call.factors = torch.cat([rows, rows.flip(0)]), factors
        call.starts = torch.cat([starts, starts + size, torch.tensor([2 * size])])
        Step(call, [table(), table()], [1, 0]).check(gpu, one.rule, "nearest", weighted=True)


@pytest.mark.parametrize("rule", KERNELS)
@kinds
def test_frequencies_of_more_chunks_than_are_joined_at_once(
    rule: str, dtype: torch.dtype, rounding: str, gpu: Gpu
) -> None:
    rows = torch.tensor([2, 0, 3, 1]).repeat_interleave(torch.tensor([2400, 300, 1, 30]))
    grad, table = randn(len(rows), 3, dtype=dtype), Table.of(rule, dtype, rounding, 4, 3)
    table.weight[[0, 2, 2], [0, 1, 2]] = torch.tensor([NAN, INF, NAN], dtype=dtype)
    rows = rows[torch.randperm(len(rows))].view(-1, 1)
    table.check(gpu, grad, steps=1, indices=rows, scale_grad_by_freq=True)


@pytest.mark.parametrize("rule", KERNELS)
@kinds
def test_rows_of_a_lookup_each(rule: str, dtype: torch.dtype, rounding: str, gpu: Gpu) -> None:
    for width in (7, 16):
        table = Table.of(rule, dtype, rounding, 200, width)
        rows, grad = torch.randperm(200)[:90], randn(90, width, dtype=dtype)
        table.check(gpu, Sparse(rows, grad, 200), steps=1)


@pytest.mark.parametrize("rule", KERNELS)
@pytest.mark.parametrize(
    ("dtype", "rounding", "width"),
    [
        *((*kind, 16) for kind in KINDS if kind[0] != torch.float64),
        (torch.float16, "nearest", 7),
        (torch.bfloat16, "split", 7),
        *((dtype, "nearest", 7) for dtype in (torch.float32, torch.float64)),
    ],
)
def test_steps_of_many_tables(
    rule: str, dtype: torch.dtype, rounding: str, width: int, gpu: Gpu
) -> None:
    """Rows of one lookup, of few and of many, and bags of every length."""
    sizes = (5, 30, 200, 9, *[12] * 5)
    widths = (width, width + 24, *[width] * 7)
    call = make_call(widths, ("sum", "mean"), num_bags=4, longest=0, padding=True)
    call.features = [0, 2, 1, 3, 0, *range(4, 9)]
    lengths = (3, 0, 1, 28, 29, 90, 0, 5, 2305, 1, 7, 9, 0, 0, 2, 260, 4, 5, 40, 1)
    lengths += (1, 0, 2, 0) * 5
    lookups = [
        indices("zipf", sum(lengths[4 * feature : 4 * feature + 4]), sizes[table])
        for feature, table in enumerate(call.features)
    ]
    lookups[1] = torch.randperm(200)[: len(lookups[1])]
    lookups[2][torch.randperm(len(lookups[2]))[:2200]] = 3
    call.lookups, call.starts = torch.cat(lookups), starts_of(lengths, include_last_offset=True)
    tables = [Table.of(rule, dtype, rounding, *shape) for shape in zip(sizes, widths, strict=True)]
    for table in tables:
        table.weight[::3, :4] = torch.tensor([NAN, INF, -INF, -0.0])
    weighted = rule in ("momentum", "adam", "row_wise_adagrad decay")
    call.factors = randn(sum(lengths), dtype=dtype) if weighted else None
    updated = [8, 3, 0, 7, 6, 2, 4, 1]
    Step(call, tables, updated).check(gpu, rule, rounding, weighted)


def far(table: Table, rows: Tensor, size: int) -> Table:
    """``size`` rows, of which these are those of ``table`` and the others take no memory."""

    def moved(tensor: Tensor) -> Tensor:
        result = mapped((size, *tensor.shape[1:]), tensor.dtype)
        result[rows] = tensor
        return result

    states = tuple(moved(state) for state in table.states)
    return dataclasses.replace(table, weight=moved(table.weight), states=states)


@needs_cudasim
@pytest.mark.parametrize("rule", KERNELS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [1, 16])
def test_more_rows_than_32_bits_count(rule: str, dtype: torch.dtype, width: int) -> None:
    """A step on a table, and on that one and another whose rows are numbered behind it."""
    size, rounding = 2**32 + 9, "stochastic" if dtype.itemsize == 2 else "nearest"
    rows = torch.tensor([0, 5, 2**31, 2**32 - 1, 2**32, size - 2, size - 1])
    near = Table.of(rule, dtype, rounding, len(rows), width)
    own = indices("zipf", 700, len(rows))
    other = Table.of(rule, dtype, rounding, 9, width)
    starts, grad = torch.tensor([0, 30]), randn(2, 2 * width, dtype=dtype)
    options = RULES[rule] | {"lr": 0.05, "rounding": rounding, "seed": 5}

    def steps() -> list[Tensor]:
        first = far(near, rows, size)
        second = dataclasses.replace(
            other, weight=other.weight.clone(), states=tuple(s.clone() for s in other.states)
        )
        both = torch.cat([rows[own[:500]], own[500:]]), torch.tensor([0, 30, 500, 640, 700])
        update_(first.weight, first.states, grad[:, :width], rows[own], starts, step=1, **options)
        torch.ops.myemb.embedding_bag_tables_update_(
            [first.weight, second.weight],
            [*first.states, *second.states],
            grad,
            *both,
            None,
            None,
            [0, 1],
            None,
            None,
            [0, 1],
            step=2,
            **options,
        )
        states = [each[rows] for each in (first.weight, *first.states)]
        return canonical([*states, second.weight, *second.states])

    expected = steps()
    for arch in simulator.ARCHITECTURES[:1]:
        for ours, theirs in zip(Gpu(arch).run(steps), expected, strict=True):
            assert_same_bits(ours, theirs)
