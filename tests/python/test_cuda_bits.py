"""The CUDA kernels give the bits of the CPU kernels: on simulated GPUs, and on a real one.

docs/numbers.md promises it.
"""

from __future__ import annotations

from typing import Any

import pytest
import simulator
import torch
from calls import Call, bad_index, bad_offsets, calls
from gpus import Gpu, assert_same_bits, compare, moved, needs_cudasim, needs_gpu
from hypothesis import example, given, settings
from inputs import FLOAT_DTYPES, indices, offsets, variants
from torch import Tensor

from myemb.functional import embedding, embedding_bag, embedding_renorm_

ops = torch.ops.myemb
INF = float("inf")
WIDTHS = (1, 3, 7, 33, 64, 130, 514, 2049)
KERNEL_INDEX_DTYPES = (torch.int32, torch.int64)
BAG_LENGTHS = (0, 1, 31, 32, 33, 255, 0, 256, 257, 511, 513, 700, 0)  # chunks are of 256

dtypes = pytest.mark.parametrize("dtype", FLOAT_DTYPES)
index_dtypes = pytest.mark.parametrize("index_dtype", KERNEL_INDEX_DTYPES)
widths = pytest.mark.parametrize("width", WIDTHS)
modes = pytest.mark.parametrize("mode", [0, 1, 2], ids=["sum", "mean", "max"])
paddings = pytest.mark.parametrize("padding_idx", [None, 4])


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def starts_of(lengths: tuple[int, ...], include_last_offset: bool = False) -> Tensor:
    ends = torch.tensor(lengths).cumsum(0)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
    return starts if include_last_offset else starts[:-1]


def lookup(
    weight: Tensor, rows: Tensor, upstream: Tensor, padding_idx: int | None = None
) -> list[Tensor]:
    """The operators of embedding."""
    padding = -1 if padding_idx is None else padding_idx
    backward = ops.embedding_dense_backward
    return [
        ops.embedding(weight, rows),
        backward(upstream, rows, weight.size(0), padding, False),
        backward(upstream, rows, weight.size(0), padding, True),
    ]


def bags(
    weight: Tensor,
    rows: Tensor,
    starts: Tensor | None,
    upstream: Tensor,
    factors: Tensor | None,
    mode: int,
    padding_idx: int | None = None,
    last: bool = False,
) -> list[Tensor]:
    """Every operator of embedding_bag that there is in this mode."""
    size, positions = weight.size(0), None
    results = [
        ops.embedding_bag(weight, rows, starts, False, mode, False, factors, last, padding_idx)
    ]
    if mode == 2:
        output, positions = ops.embedding_bag_max(weight, rows, starts, factors, last, padding_idx)
        results += [output, positions]
    for frequency in (False, True):
        results.append(
            ops.embedding_bag_dense_backward(
                upstream, rows, starts, positions, size, frequency, mode, factors, last, padding_idx
            )
        )
        if mode != 2:
            results.append(
                ops.embedding_bag_sparse_backward(
                    upstream, rows, starts, size, frequency, mode, factors, last, padding_idx
                )
            )
    results.append(
        ops.embedding_bag_per_sample_weights_backward(
            upstream, weight, rows, starts, positions, mode, last, padding_idx
        )
    )
    return results


@dtypes
@index_dtypes
@widths
def test_lookups_of_every_width(
    dtype: torch.dtype, index_dtype: torch.dtype, width: int, gpu: Gpu
) -> None:
    rows = indices("zipf", 37, 12, index_dtype)
    arguments = (randn(12, width, dtype=dtype), rows, randn(37, width, dtype=dtype))
    compare(gpu, lookup, *arguments, None)
    compare(gpu, lookup, *arguments, 4)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.complex64, torch.complex128]
)
@pytest.mark.parametrize("width", [1, 5, 64])
def test_lookups_in_tables_of_other_dtypes(dtype: torch.dtype, width: int, gpu: Gpu) -> None:
    weight = torch.randint(0, 2, (9, width)).to(dtype)
    rows = torch.randint(9, (4, 3))
    compare(gpu, lambda weight, rows: [ops.embedding(weight, rows)], weight, rows)


@modes
@dtypes
@widths
@pytest.mark.parametrize("weighted", [False, True])
def test_bags_of_every_width(
    mode: int, dtype: torch.dtype, width: int, weighted: bool, gpu: Gpu
) -> None:
    index_dtype = torch.int32 if width % 2 else torch.int64
    rows, starts = indices("zipf", 19, 7, index_dtype), torch.tensor([0, 3, 3, 4, 10])
    factors = randn(19, dtype=dtype) if weighted else None
    weight, upstream = randn(7, width, dtype=dtype), randn(5, width, dtype=dtype)
    compare(gpu, bags, weight, rows, starts, upstream, factors, mode, 4 if weighted else None)


@modes
@dtypes
@paddings
@pytest.mark.parametrize("width", [1, 6, 33])
def test_bags_of_every_length(
    mode: int, dtype: torch.dtype, padding_idx: int | None, width: int, gpu: Gpu
) -> None:
    size, last = sum(BAG_LENGTHS), padding_idx is None
    rows, starts = indices("zipf", size, 40), starts_of(BAG_LENGTHS, last)
    weight, upstream = randn(40, width, dtype=dtype), randn(len(BAG_LENGTHS), width, dtype=dtype)
    factors = randn(size, dtype=dtype) if padding_idx is not None else None
    compare(gpu, bags, weight, rows, starts, upstream, factors, mode, padding_idx, last)


@modes
@index_dtypes
@pytest.mark.parametrize("form", ["matrix", "offsets", "last"])
@paddings
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_form_of_bags(
    mode: int,
    index_dtype: torch.dtype,
    form: str,
    padding_idx: int | None,
    dtype: torch.dtype,
    gpu: Gpu,
) -> None:
    rows, starts = indices("uniform", 60, 9, index_dtype), None
    if form == "matrix":
        rows = rows.view(6, 10)
    else:
        starts = offsets(60, 6, form == "last", torch.int64 if mode else torch.int32)
    factors = torch.randn(rows.shape)  # float32, also for a 16-bit table
    weight, upstream = randn(9, 20, dtype=dtype), randn(6, 20, dtype=dtype)
    compare(gpu, bags, weight, rows, starts, upstream, factors, mode, padding_idx, form == "last")


@dtypes
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_one_row_of_3000_lookups(dtype: torch.dtype, padding_idx: int | None, gpu: Gpu) -> None:
    rows = torch.full((3000,), 5)
    rows[::500] = 3
    upstream = randn(3000, 10, dtype=dtype)
    compare(gpu, lookup, randn(8, 10, dtype=dtype), rows, upstream, padding_idx)
    starts, weight = torch.tensor([0, 1, 2990]), randn(8, 10, dtype=dtype)
    for mode in (0, 1, 2):
        factors = randn(3000, dtype=dtype) if mode != 1 else None
        arguments = (weight, rows, starts, upstream[:3], factors, mode, padding_idx)
        compare(gpu, bags, *arguments)


def test_more_rows_than_16_bits_count(gpu: Gpu) -> None:
    rows = indices("uniform", 400, 70_000)
    rows[:3] = torch.tensor([69_999, 0, 65_536])
    compare(gpu, lookup, randn(70_000, 2), rows, randn(400, 2), 0)


def test_more_rows_than_32_bits_count(gpu: Gpu) -> None:
    """A sparse gradient needs no table, so one can be that long."""
    size = 2**33
    rows = torch.tensor([[5, size - 1, 2**32 + 5, 5], [size - 1, 0, 5, 2**32 + 5]])

    def sparse(upstream: Tensor, rows: Tensor) -> list[Tensor]:
        backward = ops.embedding_bag_sparse_backward
        return [backward(upstream, rows, None, size, True, 1, None, False, 0)]

    compare(gpu, sparse, torch.randn(2, 3), rows)


@modes
def test_nothing_to_look_up(mode: int, gpu: Gpu) -> None:
    none = torch.empty(0, dtype=torch.int64)
    for width in (0, 5):
        compare(gpu, lookup, randn(3, width), none, randn(0, width))
        for bags_of_none in (0, 2):
            starts = torch.zeros(bags_of_none, dtype=torch.int64)
            arguments = (randn(3, width), none, starts, randn(bags_of_none, width), None, mode)
            compare(gpu, bags, *arguments)
        empty_rows = torch.empty(2, 0, dtype=torch.int64)
        compare(gpu, bags, randn(3, width), empty_rows, None, randn(2, width), None, mode)
    rows = torch.tensor([[0, 2], [1, 1]])
    compare(gpu, bags, randn(3, 0), rows, None, randn(2, 0), torch.randn(2, 2), mode)


def expanded(tensor: Tensor) -> Tensor:
    return tensor[:1].expand(tensor.shape)


@modes
@pytest.mark.parametrize("layout", ["strided", "offset", "transposed", "expanded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 33])
def test_any_layout(mode: int, layout: str, dtype: torch.dtype, width: int, gpu: Gpu) -> None:
    def laid_out(tensor: Tensor) -> Tensor:
        return expanded(tensor) if layout == "expanded" else variants(tensor)[layout]

    weight, upstream = laid_out(randn(12, width, dtype=dtype)), randn(40, width, dtype=dtype)
    rows, factors = indices("uniform", 40, 12).view(5, 8), randn(5, 8, dtype=dtype)
    compare(gpu, lookup, weight, laid_out(rows), laid_out(upstream).view(5, 8, width))
    upstream = laid_out(upstream[:5])
    compare(gpu, bags, weight, laid_out(rows), None, upstream, laid_out(factors), mode, 2)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_and_second_derivatives(
    mode: str, sparse: bool, dtype: torch.dtype, gpu: Gpu
) -> None:
    sparse = sparse and mode != "max"

    def derivatives(rows: Tensor, starts: Tensor, *values: Tensor) -> list[Tensor]:
        weight, factors, upstream, direction = (value.requires_grad_() for value in values)
        options: dict[str, Any] = {"scale_grad_by_freq": mode != "max", "sparse": sparse}
        output = embedding_bag(
            rows,
            weight,
            starts,
            mode=mode,
            per_sample_weights=factors,
            padding_idx=2,
            **options,
        )
        first = torch.autograd.grad(output, (weight, factors), upstream, create_graph=True)
        plain = embedding(rows, weight, 2, **options)
        (table,) = torch.autograd.grad(plain, weight, plain.detach())
        results = [output, *first, plain, table]
        if not sparse:  # ATen's otherwise, and on CUDA in no fixed order
            results += torch.autograd.grad(first, (upstream, factors), (direction, factors))
        return results

    rows, starts = indices("zipf", 50, 9), torch.tensor([0, 7, 7, 30])
    values = [randn(*shape, dtype=dtype) for shape in ((9, 6), (50,), (4, 6), (9, 6))]
    compare(gpu, derivatives, rows, starts, *values)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("last", [False, True])
def test_checked_offsets(dtype: torch.dtype, last: bool, gpu: Gpu) -> None:
    starts = torch.stack([offsets(90, 40, True, dtype) for _ in range(3)])
    starts = starts if last else starts[:, :-1]
    for each in (starts, starts[0], starts[:0], starts[:, :1] * 0 if not last else starts):
        compare(gpu, lambda o: [ops.checked_offsets(o, 90, last)], each)


def renormed(weight: Tensor, rows: Tensor, max_norm: float, p: float) -> list[Tensor]:
    table = weight.detach()
    embedding_renorm_(table, rows, max_norm, p)
    return [table]


@dtypes
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0, 2.5, 3.0, INF, -1.0, -INF])
@pytest.mark.parametrize("width", [1, 7, 33, 64, 514])
def test_renorm(dtype: torch.dtype, p: float, width: int, gpu: Gpu) -> None:
    weight, rows = randn(15, width, dtype=dtype), indices("zipf", 40, 12).view(5, 8)
    weight[2] = 0
    for max_norm in (0.001, 0.5, 2.0, 30.0):
        compare(gpu, renormed, weight, rows, max_norm, p)
    for layout in ("strided", "offset", "transposed"):
        compare(gpu, renormed, variants(weight)[layout], rows.int(), 0.5, p)


def everything() -> list[Tensor]:
    """Enough work for many blocks, with chunks to join and a hot row."""
    results: list[Tensor] = []
    size = sum(BAG_LENGTHS)
    rows = indices("zipf", size, 300)
    for dtype, width in ((torch.float32, 20), (torch.float16, 33)):
        weight, upstream = randn(300, width, dtype=dtype), randn(size, width, dtype=dtype)
        factors = randn(size, dtype=dtype)
        results += lookup(weight, rows, upstream, 7)
        bag_upstream = upstream[: len(BAG_LENGTHS)]
        for mode in (0, 1, 2):
            starts = starts_of(BAG_LENGTHS)
            results += bags(weight, rows, starts, bag_upstream, factors, mode, 7)
        results += renormed(weight.clone(), rows, 1.0, 2.0)
    return results


@needs_cudasim
def test_the_order_of_blocks_and_warps_changes_no_bit() -> None:
    torch.manual_seed(1)
    expected = everything()
    for arch in simulator.ARCHITECTURES:
        for seed in (1, 2, 3):
            torch.manual_seed(1)
            with simulator.simulation(arch, seed):
                actual = everything()
            for ours, theirs in zip(actual, expected, strict=True):
                assert_same_bits(ours, theirs)


def outcome(function: Any, arguments: dict[str, Any]) -> list[Tensor] | None:
    """Output, gradients and the table after the call; None if it was refused."""
    names = ("weight", "per_sample_weights")
    leaves = [arguments[name] for name in names if arguments.get(name) is not None]
    leaves = [leaf.requires_grad_() for leaf in leaves if leaf.dtype in FLOAT_DTYPES]
    try:
        output = function(**arguments)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return None
    results = [output.detach(), arguments["weight"].detach()]
    if output.requires_grad:
        numbers = torch.arange(output.numel(), device=output.device) * 3 % 11 - 5
        upstream = numbers.view(output.shape).to(output.dtype)
        results += torch.autograd.grad(output, leaves, upstream, materialize_grads=True)
    return results


def same_outcome(call: Call, actual: list[Tensor] | None, expected: list[Tensor] | None) -> None:
    has_no_norm = call.dtype.is_complex and call.max_norm is not None  # docs/cuda.md
    assert (actual is None) == (expected is None or has_no_norm)
    if actual is None or expected is None:
        return
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same_bits(ours.cpu(), theirs)


def check_random_call(call: Call) -> None:
    function = embedding_bag if call.bag else embedding
    expected = outcome(function, call.tensors())
    for arch in simulator.ARCHITECTURES:
        with simulator.simulation(arch, len(call.lookups)):
            actual = outcome(function, call.tensors())
        same_outcome(call, actual, expected)


ignore_argument_order = pytest.mark.filterwarnings(
    "ignore:Argument order of nn.functional.embedding_bag"
)


@needs_cudasim
@settings(max_examples=300)
@given(calls(bag=False))
@example(Call(False, [1, 1], (2,), dtype=torch.complex64, max_norm=60.0))
def test_random_lookups(call: Call) -> None:
    check_random_call(call)


@needs_cudasim
@ignore_argument_order
@settings(max_examples=600)
@given(calls(bag=True))
def test_random_bags(call: Call) -> None:
    check_random_call(call)


@pytest.mark.cuda
@needs_gpu
@ignore_argument_order
@settings(max_examples=600)
@given(calls(bag=True) | calls(bag=False))
def test_random_calls_on_a_gpu(call: Call) -> None:
    if bad_index(call) or bad_offsets(call):
        return  # an assertion would end the use of CUDA in this process
    function = embedding_bag if call.bag else embedding
    expected = outcome(function, call.tensors())
    arguments = {name: moved(value, "cuda") for name, value in call.tensors().items()}
    same_outcome(call, outcome(function, arguments), expected)
