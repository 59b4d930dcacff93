"""Where the CUDA kernels could be wrong and ordinary inputs would not show it.

`make mutate` says which changes of a kernel the tests do not notice; what it found is here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import simulator
import torch
from gpus import Gpu, compare, needs_cudasim
from inputs import FLOAT_DTYPES
from test_cuda_bits import bags, lookup, randn, renormed, starts_of
from torch import Tensor

ops = torch.ops.myemb
INF, NAN = float("inf"), float("nan")

LENGTHS = (0, 1, 2, 5, 31, 32, 33, 100, 255, 256, 257, 300, 511, 512, 513, 700, 1025)
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32, 40, 64, 66, 100, 128, 130, 256)
SPECIAL = (0.0, -0.0, INF, -INF, NAN, 1e-40, -1e-6, 3e38, 65504.0, 1.0)
POWERS = (0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 7.0, -0.5, -1.0, -2.0, INF, -INF)


def canonical(results: list[Tensor]) -> list[Tensor]:
    """Every NaN as the same one: docs/numbers.md does not promise its payload."""
    return [r.where(~r.isnan(), NAN) if r.is_floating_point() else r for r in results]


def without_payloads(function: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    return lambda *arguments: canonical(function(*arguments))


class Chance:
    """Draws inputs; the same ones for a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.choice = self.random.choice
        torch.manual_seed(seed)

    def sometimes(self, probability: float = 0.5) -> bool:
        return self.random.random() < probability

    def values(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Of all sizes, with a few special ones among them."""
        values = torch.randn(shape, dtype=torch.float64) * 10.0 ** self.random.uniform(-4, 4)
        if self.sometimes(0.4):
            special = torch.tensor(SPECIAL, dtype=torch.float64)
            here = torch.rand(shape) < 0.02
            values[here] = special[torch.randint(len(special), (int(here.sum()),))]
        return values.to(dtype)

    def rows(self, count: int, size: int) -> Tensor:
        """Lookups: of any row, mostly of a few, or nearly all of one."""
        spread = self.choice((1.0, 3.0, 30.0))
        rows = (size * torch.rand(count, dtype=torch.float64) ** spread).long()
        return rows.to(self.choice((torch.int32, torch.int64)))


@pytest.mark.parametrize("seed", range(60))
def test_random_lookups(seed: int, gpu: Gpu) -> None:
    chance = Chance(seed)
    count, size = chance.choice((1, 7, 60, 700, 1500)), chance.choice((1, 3, 40, 300, 3000))
    width, dtype = chance.choice(WIDTHS), chance.choice(FLOAT_DTYPES)
    padding_idx = chance.choice((None, 0, size - 1))
    rows = chance.rows(count, size)
    weight, upstream = (
        chance.values(size, width, dtype=dtype),
        chance.values(count, width, dtype=dtype),
    )
    compare(gpu, without_payloads(lookup), weight, rows, upstream, padding_idx)


@pytest.mark.parametrize("seed", range(120))
def test_random_bags(seed: int, gpu: Gpu) -> None:
    chance = Chance(seed)
    lengths = tuple(
        chance.choice(LENGTHS[: chance.choice((6, 9, 17))]) for _ in range(seed % 9 + 1)
    )
    matrix, size = chance.sometimes(0.2), chance.choice((1, 3, 40, 300))
    lengths = (max(lengths),) * len(lengths) if matrix else lengths
    count, width = sum(lengths), chance.choice(WIDTHS)
    dtype, padding_idx = chance.choice(FLOAT_DTYPES), chance.choice((None, 0, size - 1))
    rows, last = chance.rows(count, size), chance.sometimes()
    starts = None if matrix else starts_of(lengths, last)
    factors = chance.values(count, dtype=chance.choice((dtype, torch.float32)))
    if dtype == torch.float64 or chance.sometimes():
        factors = factors.to(dtype)
    if matrix:
        rows, factors = rows.view(len(lengths), -1), factors.view(len(lengths), -1)
    weight = chance.values(size, width, dtype=dtype)
    upstream = chance.values(len(lengths), width, dtype=dtype)
    weights = factors if chance.sometimes() else None
    mode = seed % 3
    arguments = (weight, rows, starts, upstream, weights, mode, padding_idx, last and not matrix)
    compare(gpu, without_payloads(bags), *arguments)


# Of 1, 2, 4 and 8 values an access, each with every part of 128 columns behind the others.
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize(
    "width",
    [
        *(1, 3, 5, 9, 17, 33, 65, 97, 129, 161, 193, 257),
        *(2, 6, 10, 18, 34, 66, 98, 130, 162, 194, 258),
        *(4, 12, 20, 36, 60, 68, 100, 124, 132, 164, 196, 260, 300, 516),
        *(8, 32, 40, 64, 72, 104, 128, 136, 160, 200, 232, 256, 296, 384, 768),
    ],
)
def test_wide_accesses(dtype: torch.dtype, width: int, gpu: Gpu) -> None:
    """What is left of a row behind the columns that threads read together, of every size."""
    torch.manual_seed(width)
    starts, rows = starts_of((5, 0, 35, 1, 39, 17)), torch.randint(40, (97,))
    weight, upstream = randn(40, width, dtype=dtype), randn(6, width, dtype=dtype)
    for mode in (0, 1, 2):
        compare(gpu, bags, weight, rows, starts, upstream, randn(97, dtype=dtype), mode, 3)
    compare(gpu, lookup, weight, rows, randn(97, width, dtype=dtype), 3)
    for p in (0.0, 1.0, 2.0, 3.0, INF, -INF):
        compare(gpu, renormed, weight, rows, 1.0, p)


def dots(weight: Tensor, rows: Tensor, starts: Tensor, upstream: Tensor) -> list[Tensor]:
    """The gradient of per_sample_weights in modes sum and max."""
    _, positions = ops.embedding_bag_max(weight, rows, starts)
    return [
        ops.embedding_bag_per_sample_weights_backward(
            upstream, weight, rows, starts, where, mode, False, None
        )
        for mode, where in ((0, None), (2, positions))
    ]


# So many that a warp works on several in turn.
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize(("width", "count"), [(20, 8300), (33, 4200), (34, 4200), (40, 16500)])
def test_many_lookups(dtype: torch.dtype, width: int, count: int, gpu: Gpu) -> None:
    torch.manual_seed(width)
    rows, starts = torch.randint(count, (count,)), torch.arange(0, count, 21)
    weight, upstream = randn(count, width, dtype=dtype), randn(len(starts), width, dtype=dtype)
    compare(gpu, dots, weight, rows, starts, upstream)
    for p in (1.0, 2.0, 0.0, INF, -INF):
        compare(gpu, renormed, weight, rows, width**0.5 if p == 2 else 1.0, p)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("p", POWERS)
def test_renorm_of_rows_of_every_size(dtype: torch.dtype, p: float, gpu: Gpu) -> None:
    chance = Chance(int(10 * p) if abs(p) < INF else 3)
    for width in (1, 5, 40, 130):
        sizes = 10.0 ** torch.linspace(-6, 4, 40, dtype=torch.float64)
        weight = (torch.randn(40, width, dtype=torch.float64) * sizes[:, None]).to(dtype)
        weight[3], weight[5, 0], weight[7, -1], weight[9] = 0, NAN, INF, -weight[9].abs()
        for max_norm in (1e-3, 0.2, 5.0, 1e6):
            rows = chance.rows(60, 40)
            compare(gpu, without_payloads(renormed), weight, rows, max_norm, p)


@pytest.mark.parametrize("length", [256, 257, 300, 512, 513, 769])
@pytest.mark.parametrize("before", [0, 1, 255, 256, 300])
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_where_long_bags_begin_and_end(length: int, before: int, mode: int, gpu: Gpu) -> None:
    """Beside each other, first and last, with padding at the seams of their chunks."""
    starts = starts_of((before, length, length, 3, length))
    count = before + 3 * length + 3
    rows = torch.randint(1, 30, (count,))
    rows[before : before + 40] = 0
    rows[before + 255 : before + 258] = 0
    rows[-1] = 0
    weight, upstream = randn(30, 3), randn(5, 3)
    for padding_idx in (None, 0):
        compare(gpu, bags, weight, rows, starts, upstream, None, mode, padding_idx)


# Runs of 256 are not cut, longer ones are; 4400 is more than two times what is joined at once.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [256, 257, 300, 512, 513, 769, 4400])
@pytest.mark.parametrize("before", [0, 1, 255, 256, 300])
def test_where_long_runs_begin_and_end(
    dtype: torch.dtype, length: int, before: int, gpu: Gpu
) -> None:
    torch.manual_seed(length)
    runs = [*[2] * (before // 2), before % 2, length, length, 3, length, 1]
    rows = torch.arange(len(runs)).repeat_interleave(torch.tensor(runs))
    rows = rows[torch.randperm(len(rows))]
    for width in (3, 16):
        weight = randn(len(runs), width, dtype=dtype)
        compare(gpu, lookup, weight, rows, randn(len(rows), width, dtype=dtype), None)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [1, 2, 16, 32])
def test_the_first_of_equal_maxima_wins(dtype: torch.dtype, width: int, gpu: Gpu) -> None:
    weight = torch.randint(-1, 2, (30, width)).to(dtype)
    rows, starts = torch.randint(30, (400,)), starts_of((9, 1, 300, 90))
    upstream = randn(4, width, dtype=dtype)
    for factors in (None, torch.randint(-1, 2, (400,)).to(dtype)):
        compare(gpu, bags, weight, rows, starts, upstream, factors, 2, 5)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, INF, -INF])
@pytest.mark.parametrize("width", [33, 98, 130, 132, 193, 200])
def test_every_column_counts_in_a_norm(dtype: torch.dtype, p: float, width: int, gpu: Gpu) -> None:
    """A value that decides alone, at each column in turn: NaN, zero, the largest, the smallest."""
    torch.manual_seed(width)
    rows = torch.arange(width)
    for value, others in ((NAN, 1.0), (0.0, 1.0), (1.0, 0.0), (50.0, 1.0), (0.01, 1.0)):
        weight = torch.full((width, width), others, dtype=dtype)
        weight[rows, rows] = value
        for max_norm in (0.5, 3.0):
            compare(gpu, without_payloads(renormed), weight, rows, max_norm, p)


def long_lookups(size: int, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Rows of which some are looked up more than 2048 times, and where bags of them start."""
    count = sum(lengths)
    rows = torch.randint(size, (count,))
    for row, times in ((0, 300), (4, 2100), (5, 257), (size - 1, 600)):
        rows[torch.randperm(count)[:times]] = row
    return rows, starts_of(lengths)


# Chunks of 256, of which 8 are joined at once; in accesses of 1 to 8 values, and in two tiles.
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [2, 16, 33, 34, 40, 264])
@pytest.mark.parametrize("weighted", [False, True])
def test_long_bags_of_every_form(dtype: torch.dtype, width: int, weighted: bool, gpu: Gpu) -> None:
    torch.manual_seed(width)
    rows, starts = long_lookups(50, (300, 5, 0, 769, 257, 31, 256, 513, 2400))
    weight = randn(50, width, dtype=dtype)
    factors = randn(len(rows), dtype=dtype) if weighted else None
    for mode in (0, 2) if width < 264 else (1,):
        upstream = randn(9, width, dtype=dtype)
        compare(gpu, bags, weight, rows, starts, upstream, factors, mode, 4 if weighted else None)
    matrix, upstream = rows[:1200].view(4, 300), randn(4, width, dtype=dtype)
    factors = None if factors is None else factors[:1200].view(4, 300)
    compare(gpu, bags, weight, matrix, None, upstream, factors, weighted * 2, None)


def test_zeros_keep_their_sign(gpu: Gpu) -> None:
    weight, upstream = -torch.zeros(4, 8), -torch.zeros(3, 8)
    rows, starts = torch.tensor([0, 1, 2, 2, 3]), torch.tensor([0, 1, 1])
    for mode in (0, 1, 2):
        for factors in (None, torch.tensor([1.0, -1.0, 0.0, -0.0, 2.0])):
            compare(gpu, bags, weight, rows, starts, upstream, factors, mode, 2)
    compare(gpu, lookup, weight, rows, -torch.zeros(5, 8), None)


# ---- what is refused -----------------------------------------------------------------------------


def calls_with(weight: Tensor, rows: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each operator that reads indices, with its name; two bags."""
    size = weight.size(0)
    grad, starts, factors = weight[:2], torch.tensor([0, 1]), torch.ones(len(rows))
    options = (False, None)
    yield "embedding", lambda: ops.embedding(weight, rows)
    for mode in (0, 2):
        yield "embedding_bag", lambda mode=mode: ops.embedding_bag(weight, rows, starts, mode=mode)
    yield (
        "embedding_dense_backward",
        lambda: ops.embedding_dense_backward(weight[: len(rows)], rows, size),
    )
    yield "embedding_renorm_", lambda: ops.embedding_renorm_(weight.clone(), rows, 1.0)
    for weights in (None, factors.to(weight.dtype)):
        yield (
            "embedding_bag_dense_backward",
            lambda weights=weights: ops.embedding_bag_dense_backward(
                grad, rows, starts, None, size, False, 0, weights, *options
            ),
        )
    yield (
        "embedding_bag_sparse_backward",
        lambda: ops.embedding_bag_sparse_backward(
            grad, rows, starts, size, False, 0, None, *options
        ),
    )
    yield (
        "embedding_bag_per_sample_weights_backward",
        lambda: ops.embedding_bag_per_sample_weights_backward(
            grad, weight, rows, starts, None, 0, *options
        ),
    )


@needs_cudasim
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [1, 2, 4, 32])
@pytest.mark.parametrize("bad", [-1, 9, 2**31 - 1])
def test_a_bad_index_is_refused_by_name(dtype: torch.dtype, width: int, bad: int) -> None:
    weight = randn(9, width, dtype=dtype)
    for index_dtype in (torch.int32, torch.int64):
        rows = torch.tensor([8, 0, bad, 3], dtype=index_dtype)
        for name, call in calls_with(weight, rows):
            with (
                simulator.simulation(simulator.ARCHITECTURES[0]),
                pytest.raises(RuntimeError, match=f"myemb::{name}: index out of range"),
            ):
                call()


@pytest.mark.parametrize("last", [False, True])
def test_more_batches_of_offsets_than_a_grid_has_rows(last: bool, gpu: Gpu) -> None:
    offsets = torch.tensor([0, 1]).expand(65_540, 2)
    compare(gpu, lambda each: [ops.checked_offsets(each, 1, last)], offsets)


@needs_cudasim
@pytest.mark.parametrize("batch", [0, 65_535, 65_539])
@pytest.mark.parametrize("last", [False, True])
def test_a_bad_batch_of_offsets_is_refused_wherever_it_is(batch: int, last: bool) -> None:
    for bad in ([1, 1], [0, 2], [0, 0] if last else [0, -1]):
        offsets = torch.tensor([0, 1]).repeat(65_540, 1)
        offsets[batch] = torch.tensor(bad)
        with simulator.simulation(simulator.ARCHITECTURES[0]), pytest.raises(RuntimeError):
            ops.checked_offsets(offsets, 1, last)


@needs_cudasim
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [1, 2, 4, 32])
@pytest.mark.parametrize(
    ("starts", "last", "message"),
    [
        ([1, 2, 3], False, r"offsets\[0\] has to be 0"),
        ([1, 2, 6], True, r"offsets\[0\] has to be 0"),
        ([0, 3, 2], False, "offsets must not decrease"),
        ([0, -1, 2], False, "offsets must not decrease"),
        ([0, 2, 7], False, "offsets must not decrease, nor exceed"),
        ([0, 2, 5], True, r"offsets\[-1\] has to be"),
        ([0, 2, 9], True, "offsets"),
    ],
)
def test_bad_offsets_are_refused(
    dtype: torch.dtype, width: int, starts: list[int], last: bool, message: str
) -> None:
    weight, rows, offsets = randn(9, width, dtype=dtype), torch.arange(6), torch.tensor(starts)
    forward = [
        lambda: ops.embedding_bag(weight, rows, offsets, include_last_offset=last),
        lambda: ops.embedding_bag_max(weight, rows, offsets, include_last_offset=last),
        lambda: ops.checked_offsets(offsets, 6, last),
        lambda: ops.checked_offsets(torch.stack([torch.zeros_like(offsets), offsets]), 6, last),
    ]
    for call in forward[:3] if last else forward:
        with (
            simulator.simulation(simulator.ARCHITECTURES[0]),
            pytest.raises(RuntimeError, match=f"myemb::embedding_bag: .*{message}"),
        ):
            call()
