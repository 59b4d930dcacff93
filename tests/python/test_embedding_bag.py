"""myemb.functional.embedding_bag against PyTorch in float64 and, past PyTorch, the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bags import check, in_float64, reference_bag, run
from inputs import (
    FLOAT_DTYPES,
    INDEX_DTYPES,
    MODES,
    WIDTHS,
    assert_near,
    indices,
    offsets,
    variants,
    whole_numbers,
)
from torch import Tensor

from myemb.functional import embedding_bag

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("padding_idx", [None, 0, -2])
def test_bags_and_gradients(
    mode: str, dtype: torch.dtype, padding_idx: int | None, device: str
) -> None:
    for kind in ("uniform", "zipf", "one_row"):
        lookups = indices(kind, 150, 40, device=device)
        weight = torch.randn(40, 33, device=device).to(dtype)
        starts = offsets(150, 20, device=device)
        upstream = torch.randn(20, 33, device=device).to(dtype)
        check(lookups, weight, starts, upstream, mode=mode, padding_idx=padding_idx, terms=150)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", WIDTHS)
def test_whole_numbers_are_exact_at_every_width(mode: str, width: int, device: str) -> None:
    lookups = indices("zipf", 64, 20, device=device).view(16, 4)  # a mean of four is exact
    arguments = (lookups, whole_numbers(20, width, device=device), None)
    upstream = 4 * whole_numbers(16, width, device=device)
    actual = run(embedding_bag, *arguments, upstream, mode=mode)
    expected = in_float64(F.embedding_bag, *arguments, upstream, mode=mode)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours.double(), theirs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [700, 5000])
def test_long_bags(mode: str, size: int, device: str) -> None:
    """Longer than a chunk of lookups, and one row hit by most of them."""
    weight = whole_numbers(300, 5, device=device)
    starts = torch.tensor([0, 1, 1, size - 3], device=device)
    upstream = whole_numbers(4, 5, device=device)
    check(
        indices("zipf", size, 300, device=device), weight, starts, upstream, mode=mode, terms=size
    )


@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
@pytest.mark.parametrize("offset_dtype", INDEX_DTYPES)
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_indices_and_offsets_of_every_dtype(
    index_dtype: torch.dtype, offset_dtype: torch.dtype, include_last_offset: bool, device: str
) -> None:
    lookups = indices("uniform", 50, 9, index_dtype, device)
    starts = offsets(50, 6, include_last_offset, offset_dtype, device)
    weight, upstream = whole_numbers(9, 4, device=device), whole_numbers(6, 4, device=device)
    for mode in MODES:
        check(
            lookups,
            weight,
            starts,
            upstream,
            mode=mode,
            include_last_offset=include_last_offset,
            terms=50,
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["contiguous", "strided", "offset", "transposed"])
def test_every_argument_in_any_layout(mode: str, layout: str, device: str) -> None:
    flat_layout = "strided" if layout == "transposed" else layout
    weight = variants(whole_numbers(12, 33, device=device))[layout]
    upstream = variants(whole_numbers(5, 33, device=device))[layout]
    lookups = variants(indices("uniform", 40, 12, device=device))[flat_layout]
    starts = variants(offsets(40, 5, device=device))[flat_layout]
    check(lookups, weight, starts, upstream, mode=mode, terms=40)
    factors = variants(torch.randn(40, device=device))[flat_layout]
    check(lookups, weight, starts, upstream, factors, mode=mode, against=reference_bag, terms=40)
    rows = variants(indices("uniform", 40, 12, device=device).view(5, 8))[layout]
    factors = variants(torch.randn(5, 8, device=device))[layout]
    check(rows, weight, None, upstream, factors, mode=mode, against=reference_bag, terms=40)


@pytest.mark.parametrize("mode", MODES)
def test_expanded_arguments(mode: str, device: str) -> None:
    weight = whole_numbers(1, 4, device=device).expand(6, 4)
    lookups = torch.tensor([[5], [1], [0]], device=device).expand(3, 4)
    check(lookups, weight, None, torch.ones(4, device=device).expand(3, 4), mode=mode)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("two_dimensional", [False, True])
def test_a_mean_of_4096_hundreds_is_100(
    dtype: torch.dtype, two_dimensional: bool, device: str
) -> None:
    weight = torch.full((3, 5), 100.0, device=device).to(dtype)
    lookups = torch.ones(4096, dtype=torch.long, device=device)
    starts = None if two_dimensional else torch.tensor([0], device=device)
    output = embedding_bag(lookups.view(1, -1) if two_dimensional else lookups, weight, starts)
    assert output.tolist() == [[100.0] * 5]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_a_gradient_of_4096_ones_is_4096(mode: str, dtype: torch.dtype, device: str) -> None:
    weight = torch.zeros(3, 5, dtype=dtype, device=device)
    lookups = torch.ones(4096, 1, dtype=torch.long, device=device)
    upstream = torch.ones(4096, 5, dtype=dtype, device=device)
    table_gradient = run(embedding_bag, lookups, weight, None, upstream, mode=mode)[1]
    assert table_gradient[1].tolist() == [4096.0] * 5
    assert not table_gradient[[0, 2]].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "lookups, starts, include_last_offset, num_bags",
    [
        (torch.empty(0, dtype=torch.long), torch.tensor([0]), False, 1),
        (torch.empty(0, dtype=torch.long), torch.tensor([0, 0, 0]), False, 3),
        (torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), False, 0),
        (torch.empty(0, dtype=torch.long), torch.tensor([0]), True, 0),
        (torch.empty(0, dtype=torch.long), torch.tensor([0, 0]), True, 1),
        (torch.empty(3, 0, dtype=torch.long), None, False, 3),
        (torch.empty(0, 3, dtype=torch.long), None, False, 0),
    ],
)
def test_nothing_to_look_up_gives_zeros(
    mode: str,
    lookups: Tensor,
    starts: Tensor | None,
    include_last_offset: bool,
    num_bags: int,
    device: str,
) -> None:
    starts = None if starts is None else starts.to(device)
    weight = torch.randn(4, 3, device=device)
    actual = run(
        embedding_bag,
        lookups.to(device),
        weight,
        starts,
        torch.ones(num_bags, 3, device=device),
        torch.empty(lookups.shape, device=device),
        mode=mode,
        include_last_offset=include_last_offset,
    )
    assert torch.equal(actual[0], torch.zeros(num_bags, 3, device=device))
    assert torch.equal(actual[1], torch.zeros_like(weight))
    assert actual[2].shape == lookups.shape


@pytest.mark.parametrize("mode", MODES)
def test_a_table_without_columns(mode: str, device: str) -> None:
    weight = torch.empty(4, 0, device=device)
    lookups = torch.tensor([[1, 3], [0, 0]], device=device)
    upstream = torch.empty(2, 0, device=device)
    actual = run(embedding_bag, lookups, weight, None, upstream, mode=mode)
    assert [tensor.shape for tensor in actual] == [(2, 0), (4, 0)]


@pytest.mark.parametrize("mode", MODES)
def test_bags_of_padding_alone_are_zeros(mode: str, device: str) -> None:
    weight = torch.tensor([[NAN], [2.0]], device=device)
    lookups = torch.tensor([[0, 0], [0, 1]], device=device)
    factors = torch.tensor([[INF, 1.0], [NAN, 3.0]], device=device)
    upstream = torch.tensor([[5.0], [7.0]], device=device)
    actual = run(embedding_bag, lookups, weight, None, upstream, factors, mode=mode, padding_idx=0)
    assert actual[0].tolist() == [[0.0], [6.0]]
    assert actual[1].tolist() == [[0.0], [21.0]]
    assert actual[2].tolist() == [[0.0, 0.0], [0.0, 14.0]]


def test_max_takes_the_first_of_equal_values(device: str) -> None:
    weight = torch.tensor([[1.0, 5.0], [1.0, 5.0], [0.0, 7.0]], device=device)
    lookups = torch.tensor([[1, 0, 2, 2]], device=device)
    upstream = torch.tensor([[3.0, 4.0]], device=device)
    factors = torch.ones(1, 4, device=device)
    output, table_gradient, factor_gradient = run(
        embedding_bag, lookups, weight, None, upstream, factors, mode="max"
    )
    assert output.tolist() == [[1.0, 7.0]]
    assert table_gradient.tolist() == [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]
    assert factor_gradient.tolist() == [[3.0, 0.0, 28.0, 0.0]]


def test_max_of_infinities_and_nan_is_pytorchs(device: str) -> None:
    weight = torch.tensor([[-INF, NAN, 1.0, -INF], [-INF, 1.0, NAN, -3.0]], device=device)
    lookups = torch.tensor([[0, 1], [1, 0], [0, 0]], device=device)
    output = embedding_bag(lookups, weight, mode="max")
    expected = F.embedding_bag(lookups, weight, mode="max")
    torch.testing.assert_close(output, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_pytorchs_known_example(mode: str, device: str) -> None:
    weight = torch.arange(1.0, 11.0, device=device).view(5, 2)
    lookups = torch.tensor([3, 1, 1, 1, 4, 0], device=device)
    starts = torch.tensor([0, 0, 3, 3, 6], device=device)
    upstream = torch.arange(1.0, 11.0, device=device).view(5, 2)
    expected = {
        "sum": [[0, 0], [13, 16], [0, 0], [13, 16], [0, 0]],
        "mean": [[0, 0], [13 / 3, 16 / 3], [0, 0], [13 / 3, 16 / 3], [0, 0]],
        "max": [[0, 0], [7, 8], [0, 0], [9, 10], [0, 0]],
    }[mode]
    actual = run(embedding_bag, lookups, weight, starts, upstream, mode=mode)
    torch.testing.assert_close(actual[0], torch.tensor(expected, device=device).float())
    theirs = in_float64(F.embedding_bag, lookups, weight, starts, upstream, mode=mode)
    assert_near(actual[1], theirs[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "bags, length, rows, width", [(3, 2, 5, 7), (5, 2, 23, 53), (5, 101, 7, 3)]
)
def test_two_dimensional_input_is_a_lookup_and_a_reduction(
    mode: str, bags: int, length: int, rows: int, width: int, device: str
) -> None:
    weight = torch.randn(rows, width, device=device, dtype=torch.float64)
    lookups = indices("uniform", bags * length, rows, device=device).view(bags, length)
    upstream = torch.randn(bags, width, device=device, dtype=torch.float64)

    def reduced(lookups: Tensor, weight: Tensor, _: None, mode: str) -> Tensor:
        looked_up = F.embedding(lookups, weight)
        return looked_up.max(1).values if mode == "max" else getattr(looked_up, mode)(1)

    check(lookups, weight, None, upstream, mode=mode, against=reduced, terms=length)


def test_two_dimensional_input_ignores_include_last_offset(device: str) -> None:
    weight, lookups = whole_numbers(5, 3, device=device), torch.tensor([[1, 2], [3, 4]])
    output = embedding_bag(lookups.to(device), weight, mode="sum", include_last_offset=True)
    assert torch.equal(output, torch.stack([weight[1] + weight[2], weight[3] + weight[4]]))


@pytest.mark.parametrize("mode", MODES)
def test_max_norm_scales_before_the_bag(mode: str, device: str) -> None:
    weight = torch.randn(8, 5, device=device) * 3
    theirs = weight.clone()
    lookups = torch.tensor([[1, 6], [6, 2]], device=device)
    expected = F.embedding_bag(lookups, theirs, mode=mode, max_norm=1.0)
    output = embedding_bag(lookups, weight, mode=mode, max_norm=1.0)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weight, theirs)


def test_max_norm_reaches_backward_with_weights(device: str) -> None:
    """The table is saved for the gradient of the weights: changing it again must be noticed."""
    weight = torch.nn.Parameter(torch.full((3, 4), 2.0, device=device))
    factors = torch.ones(1, 2, device=device, requires_grad=True)
    options: dict[str, Any] = {"mode": "sum", "per_sample_weights": factors, "max_norm": 1.0}
    output = embedding_bag(torch.tensor([[0, 1]], device=device), weight, **options)
    embedding_bag(torch.tensor([[2, 2]], device=device), weight, **options)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward(torch.ones_like(output))


@pytest.mark.parametrize("mode", MODES)
def test_more_than_2_to_the_31_elements(mode: str, device: str) -> None:
    rows, width = 2**16 + 3, 2**15
    weight = torch.empty(rows, width, dtype=torch.float16, device=device)
    weight[-2:] = torch.tensor([[1.0], [3.0]], device=device)
    lookups = torch.tensor([[rows - 1, rows - 2]], device=device)
    output = embedding_bag(lookups, weight, mode=mode)
    expected = {"sum": 4.0, "mean": 2.0, "max": 3.0}[mode]
    assert torch.equal(output, torch.full_like(output, expected))
