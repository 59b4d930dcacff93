"""Where the kernels of many tables could be wrong and ordinary inputs would not show it.

`make mutate` says which changes of a kernel the tests do not notice; what it found is here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import simulator
import torch
from gpus import Gpu, compare, needs_cudasim
from inputs import FLOAT_DTYPES, MODES, variants
from tables import Call, make_call
from test_cuda_bits import lookup, randn, starts_of
from test_cuda_edges import LENGTHS, WIDTHS, Chance
from test_cuda_tables import MIXED, bad_calls, check
from test_cuda_tables_update import Step
from test_cuda_update import KINDS, RULES, Table
from torch import Tensor

ops = torch.ops.myemb

SIZES = (0, 1, 3, 40, 300)
LAYOUTS = ("contiguous", "contiguous", "strided", "offset", "transposed")


def random_call(chance: Chance, dtypes: Sequence[torch.dtype]) -> Call:
    """Features of few tables or many, of one width or several, whose bags have any length."""
    num_tables = chance.choice((1, 2, 5, 9, 52))
    tables = range(num_tables)
    width = chance.choice(WIDTHS)
    widths = chance.choice([(*WIDTHS, 0), (width,), (width, chance.choice((*WIDTHS, 0)))])
    sizes = [chance.choice(SIZES) for _ in tables]
    features = [*tables, *(chance.choice(tables) for _ in range(chance.choice((0, 1, 6))))]
    chance.random.shuffle(features)
    num_bags, some = (
        chance.choice((1, 2, 7)),
        chance.choice((6, 9, 18) if num_tables < 52 else (4,)),
    )
    counts = torch.tensor(
        [chance.choice((*LENGTHS, 2305)[:some]) for _ in range(num_bags * len(features))]
    )
    counts[torch.rand(len(counts)) < chance.choice((0.0, 0.3, 0.9))] = 0
    if chance.sometimes():  # windows are of 256, and some things are looked for half a one away
        counts[-1] += -counts.sum() % 128
    index_dtype = chance.choice((torch.int32, torch.int64))
    lookups = []
    for own, table in zip(counts.view(-1, num_bags), features, strict=True):
        own *= sizes[table] > 0
        lookups.append(chance.rows(int(own.sum()), sizes[table]))
    modes = chance.choice([MODES, *((mode,) for mode in MODES)])
    layout = chance.choice(LAYOUTS)
    weights = [
        chance.values(sizes[t], widths[t % len(widths)], dtype=dtypes[t % len(dtypes)])
        for t in tables
    ]
    factors = dtypes[0] if len(dtypes) == 1 else torch.float32
    return Call(
        [variants(weight)[layout] for weight in weights],
        torch.cat(lookups).to(index_dtype),
        torch.cat([torch.zeros(1), counts.cumsum(0)]).to(index_dtype),
        features,
        [modes[t % len(modes)] for t in tables],
        chance.values(int(counts.sum()), dtype=factors) if chance.sometimes() else None,
        [chance.choice((None, 0, sizes[t] - 1)) if sizes[t] else None for t in tables]
        if chance.sometimes()
        else None,
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_tables(seed: int, gpu: Gpu) -> None:
    chance = Chance(seed)
    dtypes = chance.choice([MIXED, *((dtype,) for dtype in FLOAT_DTYPES)])
    check(gpu, random_call(chance, dtypes), chance.choice(LAYOUTS))


@pytest.mark.parametrize("seed", range(len(RULES) * len(KINDS)))
def test_random_steps(seed: int, gpu: Gpu) -> None:
    chance = Chance(seed)
    rule, (dtype, rounding) = list(RULES)[seed % len(RULES)], KINDS[seed // len(RULES)]
    call = random_call(chance, (dtype,))
    tables = [Table.of(rule, dtype, rounding, *weight.shape) for weight in call.weights]
    updated = chance.random.sample(range(len(tables)), chance.random.randint(1, len(tables)))
    layout = chance.choice(LAYOUTS)
    Step(call, tables, updated).check(gpu, rule, rounding, call.factors is not None, layout)


def gradients_of_factors(
    lookups: Tensor, starts: Tensor, upstream: Tensor, *weights: Tensor
) -> list[Tensor]:
    """In modes sum and max, and where the maxima were. Features of all tables, and back again."""
    padding = [1, 4] + [-1] * (len(weights) - 2)
    features = [*range(len(weights)), *reversed(range(len(weights)))]
    modes = ([0] * len(weights), [2] * len(weights))
    maxima = ops.embedding_bag_tables_max(
        weights, lookups, starts, features, modes[1], None, padding
    )[1]
    return [
        maxima,
        *(
            ops.embedding_bag_tables_per_sample_weights_backward(
                upstream, weights, lookups, starts, positions, features, mode, padding
            )
            for mode, positions in zip(modes, (None, maxima), strict=True)
        ),
    ]


# Of 1, 2, 4 and 8 values an access, each with every part of 128 columns behind the others.
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize(
    ("widths", "layout"),
    [
        ((1, 5, 17, 33, 65, 97, 129, 161, 193, 257), "contiguous"),
        ((1, 5, 17, 33, 65, 97, 129, 161, 193, 257), "transposed"),
        ((2, 6, 18, 34, 66, 98, 130, 162, 194, 258), "contiguous"),
        ((4, 16, 20, 36, 68, 100, 132, 164, 196, 260), "contiguous"),
        ((8, 24, 40, 72, 104, 136, 168, 200, 264), "contiguous"),
    ],
)
def test_gradients_of_weights_of_every_width(
    dtype: torch.dtype, widths: tuple[int, ...], layout: str, gpu: Gpu
) -> None:
    tables = range(len(widths))
    features = (*tables, *reversed(tables))
    call = make_call(widths, dtypes=(dtype,), features=features, num_bags=2, longest=3)
    upstream = variants(call.upstream().to(dtype))[layout]
    compare(gpu, gradients_of_factors, call.lookups, call.starts, upstream, *call.weights)


# Of 1, 2, 4 and 8 values an access.
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("widths", [(1, 3), (2, 6), (16, 20), (32, 40)])
@pytest.mark.parametrize("weighted", [False, True])
def test_bags_of_every_form(
    dtype: torch.dtype, widths: tuple[int, ...], weighted: bool, gpu: Gpu
) -> None:
    """Padding at the begin, short or long; maxima that are equal and never more than 0."""
    padding = (0, 1, 2, 3, 4, 5, 6, 7, 3, 33, 270)
    lengths = (9, 9, 9, 9, 9, 9, 9, 9, 0, 40, 600)
    bags = [
        torch.cat([torch.zeros(zeros, dtype=torch.int64), torch.randint(5, (length,))])
        for zeros, length in zip(padding, lengths, strict=True)
    ]
    features = [0, 1, 0, 0, 1]
    lookups = torch.cat(bags * len(features))
    starts = starts_of(tuple(map(len, bags)) * len(features), include_last_offset=True)
    weights = [randn(5, width, dtype=dtype) for width in widths]
    weights += [torch.randint(-2, 1, (5, width)).to(dtype) for width in widths]
    factors = torch.randint(1, 3, lookups.shape).to(dtype) if weighted else None

    def run(lookups: Tensor, starts: Tensor, *tensors: Tensor) -> list[Tensor]:
        values, whole = tensors[:2], tensors[2:4]
        extra = (*(tensors[4:] or [None]), [0, 0])
        calls = [(values, [0, 1]), (values, [1, 0]), (whole, [2, 2])]
        return [
            *ops.embedding_bag_tables_max(whole, lookups, starts, features, [2, 2], *extra),
            *(
                ops.embedding_bag_tables(weights, lookups, starts, features, modes, *extra)
                for weights, modes in calls
            ),
        ]

    compare(gpu, run, lookups, starts, *weights, *([] if factors is None else [factors]))


@pytest.mark.parametrize(
    ("dtype", "width", "mode"),
    [(torch.float32, 2052, "sum"), (torch.bfloat16, 2049, "mean"), (torch.float16, 2056, "max")],
)
def test_wide_rows(dtype: torch.dtype, width: int, mode: str, gpu: Gpu) -> None:
    """Of more columns than a block of threads reads at once."""
    call = make_call((width, width), (mode,), (dtype,), num_bags=2, longest=0, factors=dtype)
    call.starts = starts_of((2, 260, 0, 5), include_last_offset=True)
    call.lookups, call.factors = torch.randint(2, (267,)), randn(267, dtype=dtype)
    check(gpu, call)


@pytest.mark.parametrize(
    ("first", "second"), [(200, 184), (300, 340), (130, 126), (129, 511), (257, 300)]
)
def test_a_run_to_the_end_of_half_a_window(first: int, second: int, gpu: Gpu) -> None:
    """Long runs are looked for at the ends of windows of 256, and half of one before and behind."""
    call = make_call((4, 4), ("sum",), num_bags=1, longest=0)
    call.starts = starts_of((first, second), include_last_offset=True)
    call.lookups = torch.tensor([2, 7]).repeat_interleave(torch.tensor([first, second]))
    check(gpu, call)
    upstream, weight = torch.randn(first + second, 4), torch.randn(9, 4)
    compare(gpu, lookup, weight, call.lookups, upstream, None)


@needs_cudasim
@pytest.mark.parametrize("bad", [-1, 12])
def test_a_bad_index_of_the_only_table_without_columns(bad: int) -> None:
    call = make_call((3, 0, 2), num_bags=80, longest=9)
    for place in (int(call.starts[80]), int(call.starts[120]), int(call.starts[160]) - 1):
        lookups = call.lookups.clone()
        lookups[place] = bad
        with (
            simulator.simulation(simulator.ARCHITECTURES[0]),
            pytest.raises(RuntimeError, match="myemb::embedding_bag_tables: index out of range"),
        ):
            ops.embedding_bag_tables(call.weights, lookups, call.starts)


def test_a_table_without_columns_behind_a_larger_one(gpu: Gpu) -> None:
    """Nothing but its indices is looked at, and those of others could not be its rows."""
    check(gpu, make_call((0, 3, 8), features=(2, 0, 1)))


# So many that a warp works on several in turn.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("width", "count"), [(20, 8300), (33, 4200), (34, 4200), (40, 16500)])
def test_gradients_of_many_weights(dtype: torch.dtype, width: int, count: int, gpu: Gpu) -> None:
    features = (0, 1, 2, 2, 1, 0)
    call = make_call((width, 8, width), dtypes=(dtype,), features=features, num_bags=1, longest=0)
    starts = torch.tensor(
        [0, count // 3, count // 3 + 50, count // 2, count // 2, count - 9, count]
    )
    lookups, upstream = torch.randint(5, (count,)), call.upstream().to(dtype)
    compare(gpu, gradients_of_factors, lookups, starts, upstream, *call.weights)


@needs_cudasim
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("bad", [-1, 12])
def test_a_bad_index_is_refused_by_name(dtype: torch.dtype, width: int, bad: int) -> None:
    """In a short bag and in a long one."""
    for place in (20, 330):
        index_dtype = torch.int32 if place == 20 else torch.int64
        call = make_call((width,) * 3, dtypes=(dtype,), num_bags=2, index_dtype=index_dtype)
        call.starts = torch.tensor([0, 9, 20, 22, 400, 401, 410], dtype=index_dtype)
        call.lookups = torch.randint(5, (410,), dtype=index_dtype)
        call.lookups[place] = bad
        for name, run in bad_calls(call):
            message = rf"myemb::embedding_bag_{name}: index out of range"
            with (
                simulator.simulation(simulator.ARCHITECTURES[0]),
                pytest.raises(RuntimeError, match=message),
            ):
                run()
