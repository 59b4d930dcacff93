"""What crashes or returns garbage in PyTorch 2.15 is a clear error here, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from inputs import FLOAT_DTYPES, MODES
from simulator import fatal_on_a_gpu, refused
from torch import Tensor
from torch.autograd import forward_ad

from myemb.functional import embedding, embedding_bag, embedding_renorm_

ops = torch.ops.myemb
modes = pytest.mark.parametrize("mode", MODES)
dtypes = pytest.mark.parametrize("dtype", FLOAT_DTYPES)

BAD_OFFSETS = {
    "decreasing": ([0, 3, 2], False, "offsets must not decrease"),
    "empty": ([], False, "offsets is empty"),
    "empty with a last one": ([], True, "number of offset should be at least 1"),
    "begins late": ([1, 3], False, r"offsets\[0\] has to be 0, .*However, got 1"),
    "negative": ([0, -1], False, "offsets must not decrease|offsets"),
    "past the end": ([0, 5], False, r"offsets\[-1\] can not be greater than input's length 4"),
    "far past the end": ([0, 2**40], False, r"offsets\[-1\] can not be greater"),
    "past the end in between": ([0, 9, 4], False, "offsets"),
    "ends early": ([0, 2, 3], True, r"offsets\[-1\]"),
    "only the first of two": ([0], True, r"offsets\[-1\]"),
    "ends late": ([0, 2, 5], True, r"offsets\[-1\]"),
}
bad_offsets = pytest.mark.parametrize("name", BAD_OFFSETS)


def unchanged(function: Callable[..., Any], *tensors: Tensor) -> None:
    """Runs a call that must fail and shows that it wrote into none of the tensors."""
    before = [(tensor.clone(), tensor._version) for tensor in tensors]
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        function()
    for tensor, (values, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, values)
        assert tensor._version == version


@fatal_on_a_gpu
@modes
@dtypes
@bad_offsets
@pytest.mark.parametrize("threads", [1, 2])
def test_bad_offsets(mode: str, dtype: torch.dtype, name: str, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    offsets, include_last_offset, message = BAD_OFFSETS[name]
    weight = torch.full((5, 3), 9.0, dtype=dtype, device=device, requires_grad=True)
    lookups = torch.tensor([1, 2, 3, 4], device=device)
    starts = torch.tensor(offsets, dtype=torch.long, device=device)

    def call(max_norm: float | None = None) -> Tensor:
        return embedding_bag(
            lookups,
            weight,
            starts,
            mode=mode,
            max_norm=max_norm,
            include_last_offset=include_last_offset,
        )

    with refused(RuntimeError, message, "offsets"):
        call()
    unchanged(lambda: call(1.0), weight, lookups, starts)


@fatal_on_a_gpu
@modes
@pytest.mark.parametrize("offsets", [[0, 300, 10**6, 400], [0, 300, -10, 400], [0, 1, 600, 300]])
def test_bad_offsets_of_long_bags(mode: str, offsets: list[int], device: str) -> None:
    """The chunks of long bags are found by position, and not from bag to bag."""
    weight = torch.ones(5, 3, device=device)
    lookups = torch.ones(600, dtype=torch.long, device=device)
    with refused(RuntimeError, "offsets", "offsets"):
        embedding_bag(lookups, weight, torch.tensor(offsets, device=device), mode=mode)


@fatal_on_a_gpu
@modes
@pytest.mark.parametrize("shape", [(5, 0), (0, 3), (0, 0)])
def test_what_is_wrong_where_nothing_can_be_read(
    mode: str, shape: tuple[int, int], device: str
) -> None:
    weight = torch.empty(shape, device=device)
    lookups = torch.tensor([7, 7], device=device)
    with refused(RuntimeError, "not in the valid range", "index out of range"):
        embedding_bag(lookups, weight, torch.tensor([0], device=device), mode=mode)
    with refused(RuntimeError, "offsets", "offsets|index"):
        embedding_bag(lookups, weight, torch.tensor([0, 3], device=device), mode=mode)
    with refused(IndexError, "index out of range in self", "index out of range"):
        embedding(lookups, weight)


def test_a_negative_number_of_rows(device: str) -> None:
    grad_output, lookups = torch.ones(1, 3, device=device), torch.tensor([0], device=device)
    starts = torch.tensor([0], device=device)
    for operator, arguments in (
        (ops.embedding_dense_backward, (lookups, -1)),
        (
            ops.embedding_bag_dense_backward,
            (lookups, starts, None, -1, False, 0, None, False, None),
        ),
        (ops.embedding_bag_sparse_backward, (lookups, starts, -1, False, 0, None, False, None)),
    ):
        with pytest.raises(RuntimeError, match="num_weights must not be negative, but is -1"):
            operator(grad_output, *arguments)


@fatal_on_a_gpu
@modes
@bad_offsets
def test_bad_offsets_under_transforms(mode: str, name: str, device: str) -> None:
    offsets, include_last_offset, message = BAD_OFFSETS[name]
    weight = torch.ones(5, 3, device=device)
    lookups = torch.tensor([1, 2, 3, 4], device=device)
    starts = torch.tensor(offsets, dtype=torch.long, device=device)

    def function(weight: Tensor) -> Tensor:
        return embedding_bag(
            lookups, weight, starts, mode=mode, include_last_offset=include_last_offset
        ).sum()

    with refused(RuntimeError, message, "offsets"):
        torch.func.grad(function)(weight)
    with refused(RuntimeError, message, "offsets"), forward_ad.dual_level():
        function(forward_ad.make_dual(weight, weight))


@fatal_on_a_gpu
@bad_offsets
@pytest.mark.parametrize("mode", [0, 1])
def test_bad_offsets_in_backward_operators(name: str, mode: int, device: str) -> None:
    offsets, include_last_offset, _ = BAD_OFFSETS[name]
    lookups = torch.tensor([1, 2, 3, 4], device=device)
    starts = torch.tensor(offsets, dtype=torch.long, device=device)
    bags = max(len(offsets) - include_last_offset, 0)
    grad_output, weight = torch.ones(bags, 3, device=device), torch.ones(5, 3, device=device)
    common = (include_last_offset, None)
    for operator, arguments in (
        (ops.embedding_bag_dense_backward, (None, 5, False, mode, None)),
        (ops.embedding_bag_sparse_backward, (5, False, mode, None)),
    ):
        with pytest.raises(RuntimeError):
            operator(grad_output, lookups, starts, *arguments, *common)
    with pytest.raises(RuntimeError):
        ops.embedding_bag_per_sample_weights_backward(
            grad_output, weight, lookups, starts, None, mode, *common
        )


@fatal_on_a_gpu
@modes
@dtypes
@pytest.mark.parametrize("bad", [5, -1, 2**40, -(2**40)])
@pytest.mark.parametrize("padding_idx", [None, 0])
def test_bad_indices_in_forward(
    mode: str, dtype: torch.dtype, bad: int, padding_idx: int | None, device: str
) -> None:
    weight = torch.full((5, 3), 9.0, dtype=dtype, device=device, requires_grad=True)
    lookups = torch.tensor([[0, 1], [bad, 2]], device=device)
    message = rf"index out of range in self.*{bad}.*2.*\[0, 5\)"
    with refused(IndexError, message, "index out of range"):
        embedding(lookups, weight, padding_idx)
    with refused(RuntimeError, rf"{bad}.*\[0, 5\)", "index out of range"):
        embedding_bag(lookups, weight, mode=mode, padding_idx=padding_idx)
    unchanged(lambda: embedding(lookups, weight, padding_idx, max_norm=1.0), weight)
    unchanged(
        lambda: embedding_bag(lookups, weight, mode=mode, max_norm=1.0, padding_idx=padding_idx),
        weight,
    )
    unchanged(lambda: embedding_renorm_(weight.detach(), lookups, 1.0), weight)


@fatal_on_a_gpu
@pytest.mark.parametrize("bad", [10, -1, 100_000, 2**40])
@pytest.mark.parametrize("scale_grad_by_freq", [False, True])
def test_bad_indices_in_backward(bad: int, scale_grad_by_freq: bool, device: str) -> None:
    """PyTorch drops them in silence or, with frequencies, writes outside of its counters."""
    lookups, grad_output = torch.tensor([1, bad], device=device), torch.ones(2, 3, device=device)
    with refused(IndexError, "out of range", "index out of range"):
        ops.embedding_dense_backward(grad_output, lookups, 10, -1, scale_grad_by_freq)
    rows, grads = lookups.view(1, 2), grad_output[:1]
    for mode in (0, 1):
        with pytest.raises((IndexError, RuntimeError)):
            ops.embedding_bag_dense_backward(
                grads, rows, None, None, 10, scale_grad_by_freq, mode, None, False, None
            )
        if scale_grad_by_freq:  # without, the values of a sparse gradient depend on no row
            with pytest.raises((IndexError, RuntimeError)):
                ops.embedding_bag_sparse_backward(
                    grads, rows, None, 10, True, mode, None, False, None
                )
        with pytest.raises((IndexError, RuntimeError)):
            ops.embedding_bag_per_sample_weights_backward(
                grads, torch.ones(10, 3, device=device), rows, None, None, mode, False, None
            )


@pytest.mark.parametrize("bad", [2, -2, 2**40])
def test_positions_that_are_not_of_the_bag_match_nothing(bad: int, device: str) -> None:
    """Positions come from the forward pass, but the operator is open to everybody."""
    rows, grads = torch.tensor([[1, 2]], device=device), torch.ones(1, 3, device=device)
    positions = torch.full((1, 3), bad, device=device)
    gradient = ops.embedding_bag_dense_backward(
        grads, rows, None, positions, 10, False, 2, None, False, None
    )
    assert torch.equal(gradient, torch.zeros(10, 3, device=device))
    gradient = ops.embedding_bag_per_sample_weights_backward(
        grads, torch.ones(10, 3, device=device), rows, None, positions, 2, False, None
    )
    assert torch.equal(gradient, torch.zeros(1, 2, device=device))


@fatal_on_a_gpu
def test_a_table_without_rows_refuses_every_index(device: str) -> None:
    weight, lookups = torch.ones(0, 3, device=device), torch.tensor([0], device=device)
    message = "index out of range"
    with refused(IndexError, message, message):
        embedding(lookups, weight)
    with refused(IndexError, message, message):
        embedding_renorm_(weight, lookups, 1.0)
    for mode in MODES:
        with pytest.raises(RuntimeError):
            embedding_bag(lookups.view(1, 1), weight, mode=mode)


@modes
@pytest.mark.parametrize(
    "change",
    [
        {"mode": "min"},
        {"padding_idx": 5},
        {"padding_idx": -6},
        {"per_sample_weights": torch.ones(3)},
        {"per_sample_weights": torch.ones(2, 2, dtype=torch.float64)},
        {"offsets": torch.tensor([0])},
    ],
)
def test_every_argument_is_checked_before_max_norm_writes(
    mode: str, change: dict[str, Any], device: str
) -> None:
    weight = torch.full((5, 3), 9.0, device=device)
    lookups = torch.tensor([[0, 1], [4, 2]], device=device)
    options = {"mode": mode, "max_norm": 1.0} | {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in change.items()
    }
    unchanged(lambda: embedding_bag(lookups, weight, **options), weight)


@pytest.mark.parametrize("option", ["sparse", "scale_grad_by_freq"])
def test_max_refuses_its_options_before_max_norm_writes(option: str, device: str) -> None:
    weight = torch.full((5, 3), 9.0, device=device)
    lookups = torch.tensor([[0, 1]], device=device)
    unchanged(
        lambda: embedding_bag(lookups, weight, mode="max", max_norm=1.0, **{option: True}), weight
    )


def test_a_table_that_overlaps_itself_is_not_renormalised(device: str) -> None:
    weight = torch.full((1, 3), 9.0, device=device)
    lookups = torch.tensor([0, 4], device=device)
    unchanged(lambda: embedding_renorm_(weight.expand(5, 3), lookups, 1.0), weight)


def test_zero_length_rows_give_zeros(device: str) -> None:
    """PyTorch: `step must be nonzero`."""
    lookups = torch.empty(3, 0, dtype=torch.long, device=device)
    output = embedding_bag(lookups, torch.ones(4, 2, device=device))
    assert torch.equal(output, torch.zeros(3, 2, device=device))
