"""embedding_bag_tables of the CUDA kernels gives the bits of the CPU's, forward and backward.

On simulated GPUs, and on a real one. docs/numbers.md promises it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import simulator
import torch
from gpus import Gpu, compare, needs_cudasim
from inputs import MODES, variants
from tables import Call, make_call
from test_cuda_edges import canonical
from torch import Tensor

from myemb.functional import embedding_bag_tables

ops = torch.ops.myemb
SHARED = (0, 2, 1, 0, 3, 2)  # table 0 is read by features 0 and 3, table 2 by two, 4 and 5 by none
MIXED = (torch.float16, torch.float32, torch.bfloat16)
FLOAT, DOUBLE = (torch.float32,), (torch.float64, torch.float32)
SCALAR_TYPES = {torch.float16: 5, torch.float32: 6, torch.float64: 7, torch.bfloat16: 15}


def check(gpu: Gpu, call: Call, layout: str = "contiguous") -> None:
    """Output and gradients, the upstream one in a ``layout`` of variants().

    ``call`` is of CPU tensors, and so is what it is compared with.
    """
    tables = len(call.weights)
    upstream = variants(call.upstream())[layout]
    extra = [] if call.factors is None else [call.factors]

    def run(lookups: Tensor, starts: Tensor, upstream: Tensor, *tensors: Tensor) -> list[Tensor]:
        here = dataclasses.replace(
            call,
            lookups=lookups,
            starts=starts,
            weights=list(tensors[:tables]),
            factors=tensors[tables] if extra else None,
        )
        results = here.run(here.together, upstream)
        return canonical([result for result in results if result is not None])

    compare(gpu, run, call.lookups, call.starts, upstream, *call.weights, *extra)
    if gpu.arch is not None:  # the CPU kernels would agree with themselves
        assert {
            each["op"]
            for each in simulator.module.calls()
            if each["op"].startswith("embedding_bag_tables")
        } >= {"embedding_bag_tables_backward"}


@pytest.mark.parametrize("longest", [3, 900])  # more than a chunk of lookups in a bag, and of a row
@pytest.mark.parametrize("factors", [None, torch.float32])
@pytest.mark.parametrize("dtypes", [FLOAT, MIXED, DOUBLE], ids=["float", "16 bits", "double"])
def test_mixed_tables(
    dtypes: Sequence[torch.dtype], factors: torch.dtype | None, longest: int, gpu: Gpu
) -> None:
    if factors is not None and dtypes == DOUBLE:
        dtypes, factors = (torch.float64,), torch.float64
    call = make_call(
        widths=(1, 19, 64, 130, 8, 16),
        dtypes=dtypes,
        features=(*range(6), 0, 3),
        num_bags=30 if longest < 256 else 4,
        longest=longest,
        factors=factors,
        padding=True,
    )
    check(gpu, call)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [4, 16, 36, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tables_of_one_width(dtype: torch.dtype, width: int, mode: str, gpu: Gpu) -> None:
    """All of a call are one launch then, and columns are aligned to what a thread reads."""
    weighted = {} if width == 16 else {"factors": dtype}
    check(
        gpu,
        make_call(
            widths=(width,) * 4,
            modes=(mode,),
            dtypes=(dtype,),
            features=SHARED,
            padding=True,
            index_dtype=torch.int32 if width == 4 else torch.int64,
            **weighted,
        ),
    )


def test_more_tables_than_a_launch_takes(gpu: Gpu) -> None:
    """Of 120 features each of 60 tables is read by two; a hot row and long bags among them."""
    call = make_call(
        widths=(4,) * 60,
        modes=("sum",),
        features=[*range(60), *reversed(range(60))],
        num_bags=3,
        longest=4,
    )
    check(gpu, call)
    check(gpu, make_call(widths=(4, 16) * 55, features=None, num_bags=2, longest=300))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [33, 132, 304, 515])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_of_weights(dtype: torch.dtype, width: int, mode: str, gpu: Gpu) -> None:
    """Rows of several accesses in each lane."""
    check(
        gpu,
        make_call(
            widths=(width,) * 3,
            modes=(mode,),
            dtypes=(dtype,),
            features=(0, 2, 1, 0),
            num_bags=7,
            longest=6,
            factors=dtype,
            padding=True,
        ),
    )


@pytest.mark.parametrize("mode", ["sum", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_bags_of_more_chunks_than_are_joined_at_once(
    dtype: torch.dtype, mode: str, gpu: Gpu
) -> None:
    """Bags of a chunk and of one lookup more or less, too."""
    call = make_call(
        widths=(4, 20, 4), modes=(mode,), dtypes=(dtype,), num_bags=4, longest=0, padding=True
    )
    counts = torch.tensor([3, 2500, 0, 256, 257, 5, 600, 300, 2305, 0, 255, 2049])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    lookups = torch.randint(5, (int(counts.sum()),))
    check(gpu, dataclasses.replace(call, starts=starts, lookups=lookups))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factors", [False, True])
def test_means_of_long_bags_with_padding(factors: bool, dtype: torch.dtype, gpu: Gpu) -> None:
    """How many lookups count is found in windows, each with the padding of its feature."""
    call = make_call(
        widths=(4, 8) * 3,
        modes=("mean",),
        dtypes=(dtype,),
        features=(5, *range(6), 3),
        num_bags=2,
        longest=1500,
        factors=dtype if factors else None,
        padding=True,
    )
    padded = torch.randint(
        2, call.lookups.shape
    ).bool()  # half of the lookups of a feature, or none
    for feature, table in enumerate(call.features):
        own = slice(int(call.starts[2 * feature]), int(call.starts[2 * feature + 2]))
        if table % 2:
            call.lookups[own][padded[own]] = table
    check(gpu, call)


def test_features_without_lookups(gpu: Gpu) -> None:
    for num_bags in (0, 1, 5):
        check(gpu, make_call(widths=(3, 2, 0), num_bags=num_bags, longest=0))
    call = make_call(widths=(3, 8, 5), num_bags=3, longest=600)
    for empty in range(3):
        first, last = call.starts[3 * empty], call.starts[3 * empty + 3]
        later = (call.starts - (last - first)).clamp(first)
        starts = torch.where(call.starts > first, later, first)
        starts[: 3 * empty + 1] = call.starts[: 3 * empty + 1]
        lookups = torch.cat([call.lookups[:first], call.lookups[last:]])
        check(gpu, dataclasses.replace(call, lookups=lookups, starts=starts))


def test_tables_without_rows_or_columns(gpu: Gpu) -> None:
    weights = [torch.randn(0, 3), torch.randn(4, 0), torch.randn(2, 2), torch.randn(0, 2)]
    starts = torch.tensor([0, 0, 0, 1, 2, 3, 3, 3, 3])
    for mode in MODES:

        def run(*tensors: Tensor, mode: str = mode) -> list[Tensor]:
            leaves = [weight.requires_grad_() for weight in tensors[2:]]
            out = embedding_bag_tables(*tensors[:1], leaves, tensors[1], mode=mode)
            return [out, *torch.autograd.grad(out, leaves, torch.ones_like(out))]

        compare(gpu, run, torch.tensor([3, 0, 1]), starts, *weights)


@pytest.mark.parametrize("layout", ["expanded", "transposed", "columns of a larger one"])
def test_layouts(layout: str, gpu: Gpu) -> None:
    call = make_call(widths=(3, 8, 5), features=(0, 1, 2, 1), modes=("mean", "sum", "max"))

    def laid_out(tensor: Tensor) -> Tensor:
        return {
            "expanded": tensor[:1].expand_as(tensor),
            "transposed": tensor.t().contiguous().t(),
            "columns of a larger one": torch.cat([tensor, tensor], 1)[:, : tensor.size(1)],
        }[layout]

    def run(lookups: Tensor, starts: Tensor, upstream: Tensor, *tensors: Tensor) -> list[Tensor]:
        here = dataclasses.replace(
            call, lookups=lookups, starts=starts, weights=[laid_out(each) for each in tensors]
        )
        return here.run(here.together, laid_out(upstream))

    compare(gpu, run, call.lookups, call.starts, call.upstream(), *call.weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_gradients(weighted: bool, gpu: Gpu) -> None:
    call = make_call(
        modes=("sum", "mean"),
        features=SHARED,
        padding=True,
        factors=torch.float32 if weighted else None,
    )
    call.sparse = [True, False, True, True, False, True]
    extra = [call.factors] if weighted else []

    def run(lookups: Tensor, starts: Tensor, upstream: Tensor, *tensors: Tensor) -> list[Tensor]:
        weights = [weight.requires_grad_() for weight in tensors[:6]]
        here = dataclasses.replace(call, lookups=lookups, starts=starts)
        out = here.together(weights, tensors[6] if weighted else None)
        return list(torch.autograd.grad(out, weights[:4], upstream))

    compare(gpu, run, call.lookups, call.starts, call.upstream(), *call.weights, *extra)


def test_the_tables_that_are_wanted(gpu: Gpu) -> None:
    call = make_call(widths=(3, 8, 8, 2), features=(1, 0, 2, 3, 1), modes=MODES, padding=True)
    rows = [weight.size(0) for weight in call.weights]
    widths = [weight.size(1) for weight in call.weights]
    padding = [-1 if each is None else each for each in call.padding or ()]
    modes = [MODES.index(mode) for mode in call.modes]

    def run(lookups: Tensor, starts: Tensor, upstream: Tensor, *tensors: Tensor) -> list[Tensor]:
        positions = ops.embedding_bag_tables_max(
            tensors, lookups, starts, call.features, modes, None, padding
        )[1]
        layout = (rows, widths, [6] * 4, call.features, modes, None, padding)
        results = [positions]
        for wanted in ([], [2], [3, 1], [1, 1, 0]):
            results += ops.embedding_bag_tables_backward(
                upstream, lookups, starts, positions, *layout, [], wanted
            )
        return results

    compare(gpu, run, call.lookups, call.starts, call.upstream(), *call.weights)


# ---- refused -------------------------------------------------------------------------------------


def bad_calls(call: Call) -> list[tuple[str, Any]]:
    """The operators on ``call``, by the name in which they fail."""
    rows = [weight.size(0) for weight in call.weights]
    widths = [weight.size(1) for weight in call.weights]
    dtype, modes = call.weights[0].dtype, [0] * len(rows)
    grad, dtypes = call.upstream().to(dtype), [SCALAR_TYPES[dtype]] * len(rows)
    some = (call.lookups, call.starts)
    sgd = {"rule": "sgd", "lr": 0.1}
    maxima = torch.zeros(call.num_bags, sum(call.widths), dtype=torch.int64)
    return [
        ("tables", lambda: ops.embedding_bag_tables(call.weights, *some)),
        ("tables", lambda: ops.embedding_bag_tables_max(call.weights, *some, None, [2] * 3)),
        (
            "tables_backward",
            lambda: ops.embedding_bag_tables_backward(
                grad, *some, None, rows, widths, dtypes, None, modes, None, None, [], [0, 1, 2]
            ),
        ),
        (
            "tables_per_sample_weights_backward",
            lambda: ops.embedding_bag_tables_per_sample_weights_backward(
                grad, call.weights, *some, maxima, None, [2] * 3, None
            ),
        ),
        (
            "tables_update_",
            lambda: ops.embedding_bag_tables_update_(
                call.weights, [], grad, *some, None, None, modes, None, None, [1, 2], **sgd
            ),
        ),
    ]


@needs_cudasim
@pytest.mark.parametrize("bad", [-1, 12, 2**31 - 1])
@pytest.mark.parametrize("arch", simulator.ARCHITECTURES)
def test_a_bad_index_is_refused_by_name(arch: int, bad: int) -> None:
    call = make_call(widths=(3, 8, 0), num_bags=4, longest=5)
    before = [weight.clone() for weight in call.weights]
    call.lookups[call.starts[4]] = bad  # the first of feature 1, whose table has 12 rows
    for name, run in bad_calls(call):
        message = rf"myemb::embedding_bag_{name}: index out of range"
        with simulator.simulation(arch), pytest.raises(RuntimeError, match=message):
            run()
    for weight, old in zip(call.weights, before, strict=True):
        assert torch.equal(weight, old)


@needs_cudasim
@pytest.mark.parametrize("bad", [-1, 12])
@pytest.mark.parametrize("arch", simulator.ARCHITECTURES)
def test_a_bad_index_of_a_table_without_columns(arch: int, bad: int) -> None:
    """Nothing is read there, and the tables before and behind have more or less rows."""
    call = make_call(widths=(3, 0, 8, 0, 2), num_bags=80, longest=9)  # 5, 12, 19, 12 and 33 rows
    call.weights[3] = call.weights[1]
    call.lookups[int(call.starts[240]) : int(call.starts[320])] %= 12
    expected = call.together(call.weights, None)
    ends = call.starts[[80, 160, 240, 320]].tolist()
    middle = [sum(ends[:2]) // 2, *range(ends[2] + -ends[2] % 256, ends[3], 256)]
    for place in (None, ends[0], ends[1] - 1, ends[2], ends[3] - 1, *middle):
        lookups = call.lookups.clone()
        with simulator.simulation(arch):
            if place is None:
                assert torch.equal(call.together(call.weights, None), expected)
                continue
            lookups[place] = bad
            message = "myemb::embedding_bag_tables: index out of range"
            with pytest.raises(RuntimeError, match=message):
                ops.embedding_bag_tables(call.weights, lookups, call.starts)


@needs_cudasim
@pytest.mark.parametrize("kind", ["late", "early", "falling", "no bags"])
def test_bad_offsets_are_refused(kind: str) -> None:
    call = make_call(widths=(3, 8, 2), num_bags=4, longest=5)
    starts = call.starts.clone()
    if kind == "late":
        starts += 1
    elif kind == "early":
        starts[-1] = call.lookups.numel() - 1
    elif kind == "falling":
        starts[5] = starts[6] + 1
    call.starts = starts[:1] if kind == "no bags" else starts
    for _, run in bad_calls(call):
        with (
            simulator.simulation(simulator.ARCHITECTURES[0]),
            pytest.raises(RuntimeError, match=r"myemb::embedding_bag: (with include_last_)?offset"),
        ):
            run()


@needs_cudasim
def test_the_order_of_blocks_and_warps_changes_no_bit() -> None:
    call = make_call(widths=(8, 20, 8), features=(0, 1, 2, 0), num_bags=4, longest=600)
    for arch in simulator.ARCHITECTURES:
        for seed in (1, 2):
            check(Gpu(arch, seed), call)
