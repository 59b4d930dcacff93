"""myemb.functional.embedding: rows, gradients and sparse gradients against PyTorch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from inputs import FLOAT_DTYPES, INDEX_DTYPES, WIDTHS, assert_near, indices, variants, whole_numbers
from torch import Tensor

from myemb.functional import embedding

OTHER_DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
)


def gradient(
    weight: Tensor,
    lookups: Tensor,
    upstream: Tensor,
    padding_idx: int | None = None,
    **options: bool,
) -> Tensor:
    leaf = weight.detach().requires_grad_()
    output = embedding(lookups, leaf, padding_idx, **options)
    (result,) = torch.autograd.grad(output, leaf, upstream)
    return result


def expected_gradient(
    weight: Tensor,
    lookups: Tensor,
    upstream: Tensor,
    padding_idx: int | None = None,
    **options: bool,
) -> Tensor:
    leaf = weight.detach().double().requires_grad_()
    output = F.embedding(lookups.long(), leaf, padding_idx, **options)
    (result,) = torch.autograd.grad(output, leaf, upstream.double())
    return result


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_rows_are_copied_at_every_width(width: int, dtype: torch.dtype, device: str) -> None:
    weight = torch.randn(50, width, device=device).to(dtype)
    lookups = indices("zipf", 300, 50, device=device)
    assert torch.equal(embedding(lookups, weight), weight[lookups])


@pytest.mark.parametrize("dtype", OTHER_DTYPES)
@pytest.mark.parametrize("width", [1, 5, 64])
def test_a_table_of_any_dtype(dtype: torch.dtype, width: int, device: str) -> None:
    weight = torch.randint(0, 2, (9, width), device=device).to(dtype)
    lookups = torch.tensor([[8, 0], [3, 3]], device=device)
    output = embedding(lookups, weight)
    assert output.dtype == dtype
    expected = weight.view(torch.uint8).view(9, -1)[lookups]
    assert torch.equal(output.contiguous().view(torch.uint8).view(2, 2, -1), expected)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (2, 1, 3), (0,), (2, 0), (0, 3)])
@pytest.mark.parametrize("dtype", INDEX_DTYPES)
def test_indices_of_any_shape_and_dtype(
    shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    weight = whole_numbers(11, 5, device=device)
    lookups = torch.randint(11, shape, device=device).to(dtype)
    output = embedding(lookups, weight)
    assert output.shape == (*shape, 5)
    assert torch.equal(output, F.embedding(lookups.long(), weight))
    upstream = whole_numbers(*shape, 5, device=device)
    expected = expected_gradient(weight, lookups, upstream)
    assert torch.equal(gradient(weight, lookups, upstream).double(), expected)


@pytest.mark.parametrize("num_rows, width", [(0, 4), (5, 0), (0, 0)])
def test_a_table_without_rows_or_columns(num_rows: int, width: int, device: str) -> None:
    weight = torch.randn(num_rows, width, device=device, requires_grad=True)
    size = 3 if num_rows else 0
    output = embedding(torch.zeros(size, dtype=torch.long, device=device), weight)
    assert output.shape == (size, width)
    output.backward(torch.ones_like(output))
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("layout", ["contiguous", "strided", "offset", "transposed"])
@pytest.mark.parametrize("width", [1, 7, 130])
def test_tables_indices_and_gradients_in_any_layout(layout: str, width: int, device: str) -> None:
    weight = variants(whole_numbers(13, width, device=device))[layout]
    lookups = variants(indices("uniform", 24, 13, device=device).view(4, 6))[layout]
    upstream = whole_numbers(24, width, device=device)
    upstream = variants(upstream)[layout].view(4, 6, width)
    assert torch.equal(embedding(lookups, weight), weight.contiguous()[lookups])
    expected = expected_gradient(weight, lookups, upstream)
    assert torch.equal(gradient(weight, lookups, upstream).double(), expected)


def test_expanded_tables_indices_and_gradients(device: str) -> None:
    weight = whole_numbers(1, 6, device=device).expand(5, 6)
    lookups = torch.tensor([[1], [4]], device=device).expand(2, 3)
    assert torch.equal(embedding(lookups, weight), weight[lookups])
    table = whole_numbers(5, 6, device=device)
    upstream = torch.tensor(3.0, device=device).expand(2, 3, 6)
    expected = torch.zeros(5, 6, device=device)
    expected[[1, 4]] = 9
    assert torch.equal(gradient(table, lookups, upstream), expected)


@pytest.mark.parametrize("kind", ["uniform", "zipf", "one_row", "distinct"])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("padding_idx", [None, 0, -3])
def test_gradient(kind: str, dtype: torch.dtype, padding_idx: int | None, device: str) -> None:
    for width in (1, 3, 33, 130):
        weight = torch.randn(70, width, device=device).to(dtype)
        lookups = indices(kind, 64, 70, device=device)
        upstream = torch.randn(64, width, device=device).to(dtype)
        actual = gradient(weight, lookups, upstream, padding_idx)
        assert actual.dtype == dtype
        assert_near(actual, expected_gradient(weight, lookups, upstream, padding_idx), terms=64)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_lookups", [5, 2000])
def test_gradient_of_whole_numbers_is_exact(width: int, num_lookups: int, device: str) -> None:
    weight = torch.randn(40, width, device=device)
    lookups = indices("zipf", num_lookups, 40, device=device)
    upstream = whole_numbers(num_lookups, width, device=device)
    expected = expected_gradient(weight, lookups, upstream)
    assert torch.equal(gradient(weight, lookups, upstream).double(), expected)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_gradient_scaled_by_frequency(
    dtype: torch.dtype, padding_idx: int | None, device: str
) -> None:
    weight = torch.randn(20, 33, device=device).to(dtype)
    lookups = indices("zipf", 90, 20, device=device).view(9, 10)
    upstream = torch.randn(9, 10, 33, device=device).to(dtype)
    actual = gradient(weight, lookups, upstream, padding_idx, scale_grad_by_freq=True)
    expected = expected_gradient(weight, lookups, upstream, padding_idx, scale_grad_by_freq=True)
    assert_near(actual, expected, terms=90)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_a_gradient_of_4096_ones_is_4096(dtype: torch.dtype, device: str) -> None:
    weight = torch.zeros(3, 5, dtype=dtype, device=device)
    lookups = torch.ones(4096, dtype=torch.long, device=device)
    actual = gradient(weight, lookups, torch.ones(4096, 5, dtype=dtype, device=device))
    assert actual[1].tolist() == [4096.0] * 5
    assert not actual[[0, 2]].any()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_sparse_gradient_lists_the_lookups_in_order(
    dtype: torch.dtype, index_dtype: torch.dtype, device: str
) -> None:
    weight = torch.randn(30, 7, device=device).to(dtype)
    lookups = indices("zipf", 20, 30, index_dtype, device).view(4, 5)
    upstream = torch.randn(4, 5, 7, device=device).to(dtype)
    actual = gradient(weight, lookups, upstream, sparse=True)
    assert actual.layout == torch.sparse_coo
    assert (actual.sparse_dim(), actual.dense_dim(), actual.is_coalesced()) == (1, 1, False)
    assert actual.shape == (30, 7)
    assert torch.equal(actual._indices(), lookups.long().view(1, -1))
    assert torch.equal(actual._values(), upstream.view(-1, 7))


@pytest.mark.parametrize("padding_idx", [3, -1])
def test_sparse_gradient_leaves_padding_out(padding_idx: int, device: str) -> None:
    weight = torch.randn(6, 7, device=device)
    lookups = torch.tensor([5, 3, 0, 3, 5, 1], device=device)
    upstream = whole_numbers(6, 7, device=device)
    actual = gradient(weight, lookups, upstream, padding_idx, sparse=True)
    kept = lookups != padding_idx % 6
    assert torch.equal(actual._indices(), lookups[kept].view(1, -1))
    assert torch.equal(actual._values(), upstream[kept])


def test_sparse_gradient_of_padding_alone_is_empty(device: str) -> None:
    lookups = torch.full((4,), 2, device=device)
    upstream = torch.ones(4, 7, device=device)
    actual = gradient(torch.randn(6, 7, device=device), lookups, upstream, 2, sparse=True)
    assert actual._nnz() == 0
    assert actual.shape == (6, 7)


def test_sparse_gradients_of_three_backwards_add_up(device: str) -> None:
    weight = torch.randn(6, 2, device=device, requires_grad=True)
    lookups = torch.tensor([1, 1, 4], device=device)
    upstream = whole_numbers(3, 2, device=device)
    for _ in range(3):
        embedding(lookups, weight, sparse=True).backward(upstream)
    assert weight.grad is not None
    expected = 3 * expected_gradient(weight, lookups, upstream)
    assert torch.equal(weight.grad.to_dense().double(), expected)


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_frequency_with_a_sparse_gradient(padding_idx: int | None, device: str) -> None:
    weight = torch.randn(6, 3, device=device)
    lookups = torch.tensor([1, 4, 4, 1, 5, 4], device=device)
    upstream = torch.randn(6, 3, device=device)
    options = {"scale_grad_by_freq": True}
    actual = gradient(weight, lookups, upstream, padding_idx, sparse=True, **options)
    assert actual.is_sparse
    expected = expected_gradient(weight, lookups, upstream, padding_idx, **options)
    assert_near(actual.to_dense(), expected, terms=6)


def test_padding_rows_are_returned_but_get_no_gradient(device: str) -> None:
    weight = whole_numbers(4, 3, device=device).requires_grad_()
    lookups = torch.tensor([2, 0, 2], device=device)
    output = embedding(lookups, weight, padding_idx=2)
    assert torch.equal(output, weight[lookups])
    output.backward(torch.ones_like(output))
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3]


def test_the_output_is_a_copy_and_a_frozen_table_records_nothing(device: str) -> None:
    weight = torch.randn(3, 2, device=device)
    output = embedding(torch.arange(3, device=device), weight)
    assert output.grad_fn is None
    output.zero_()
    assert bool(weight.all())


def test_the_table_may_change_its_storage_between_calls(device: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 2, device=device))
    lookups = torch.tensor([0, 2], device=device)
    for value in range(5):
        weight.data = torch.full((2, 3), float(value), device=device).t()
        weight.grad = None
        output = embedding(lookups, weight)
        assert torch.equal(output, torch.full((2, 2), float(value), device=device))
        output.backward(torch.ones_like(output))
        assert weight.grad is not None
        assert weight.grad.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_more_than_2_to_the_31_elements(device: str) -> None:
    rows, width = 2**16 + 3, 2**15  # pages that nobody touches cost nothing
    weight = torch.empty(rows, width, dtype=torch.uint8, device=device)
    last = torch.arange(width, device=device).to(torch.uint8)
    weight[-1] = last
    assert torch.equal(embedding(torch.tensor([rows - 1], device=device), weight)[0], last)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
def test_max_norm_scales_only_the_rows_looked_up(norm_type: float, device: str) -> None:
    weight = torch.randn(8, 5, device=device) * 3
    before = weight.clone()
    expected_weight = weight.cpu().clone()  # PyTorch's CUDA kernel has no maximum norm
    lookups = torch.tensor([[1, 6], [6, 2]], device=device)
    expected = F.embedding(lookups.cpu(), expected_weight, max_norm=1.0, norm_type=norm_type)
    version = weight._version
    output = embedding(lookups, weight, max_norm=1.0, norm_type=norm_type)
    torch.testing.assert_close(output.cpu(), expected)
    torch.testing.assert_close(weight.cpu(), expected_weight)
    assert torch.equal(weight[[0, 3, 4, 5, 7]], before[[0, 3, 4, 5, 7]])
    assert weight._version > version


def test_max_norm_under_grad_mode_changes_a_parameter(device: str) -> None:
    weight = torch.nn.Parameter(torch.full((3, 4), 2.0, device=device))
    output = embedding(torch.tensor([1], device=device), weight, max_norm=1.0)
    assert output.requires_grad
    assert output.norm().item() == pytest.approx(1, abs=1e-6)
    assert weight.detach().norm(dim=1).tolist() == pytest.approx([4, 1, 4], abs=1e-6)
