"""myemb.functional.embedding_renorm_: norms for every p, and what it must leave alone."""

from __future__ import annotations

import pytest
import reference
import torch
import torch.nn.functional as F
from inputs import INDEX_DTYPES, assert_near, indices
from simulator import fatal_on_a_gpu, refused
from torch import Tensor

from myemb.functional import embedding, embedding_bag, embedding_bag_tables, embedding_renorm_

INF, NAN = float("inf"), float("nan")
NORM_TYPES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, INF)


def pytorchs(weight: Tensor, lookups: Tensor, max_norm: float, norm_type: float = 2.0) -> Tensor:
    """A renormalised copy by PyTorch, whose CUDA kernel knows no norm but those of finite p > 0."""
    table = weight.detach().cpu().clone()
    torch.embedding_renorm_(table, lookups.cpu().long(), max_norm, norm_type)
    return table.to(weight.device)


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("width", [1, 7, 33, 130, 514])
def test_every_norm_in_float64(norm_type: float, width: int, device: str) -> None:
    weight = torch.randn(12, width, dtype=torch.float64, device=device)
    weight[3, : width // 2] = 0
    lookups = torch.tensor([[3, 1], [7, 3]], device=device)
    for max_norm in (0.5, 2.0):
        actual = weight.clone()
        embedding_renorm_(actual, lookups, max_norm, norm_type)
        assert_near(actual, reference.renorm(weight, lookups, max_norm, norm_type), terms=width)
        theirs = pytorchs(weight, lookups, max_norm, norm_type)
        assert_near(actual, theirs, terms=width)


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_norm_in_other_dtypes(norm_type: float, dtype: torch.dtype, device: str) -> None:
    weight = torch.randn(12, 65, device=device).to(dtype)
    lookups = torch.tensor([0, 11, 5, 11], device=device)
    actual = embedding_renorm_(weight.clone(), lookups, 1.5, norm_type)
    assert_near(actual, reference.renorm(weight.double(), lookups, 1.5, norm_type), terms=65)


def test_a_16_bit_norm_is_not_rounded_on_the_way(device: str) -> None:
    weight = torch.full((1, 4096), 100.0, dtype=torch.float16, device=device)
    embedding_renorm_(weight, torch.tensor([0], device=device), 64.0, 2.0)  # sum of squares 4e7
    assert torch.equal(weight, torch.ones_like(weight))


@pytest.mark.parametrize("max_norm", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("norm_type", [0.0, 0.5, 1.0, 2.0, 3.0, INF, -1.0, -2.0, -INF, NAN])
def test_edge_values_of_p_and_max_norm_are_pytorchs(
    norm_type: float, max_norm: float, device: str
) -> None:
    rows = [[-3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [NAN, 1.0, 2.0], [INF, 1.0, 2.0], [5.0, -6.0, 7.0]]
    weight = torch.tensor(rows, device=device)
    lookups = torch.arange(4, device=device)
    actual = embedding_renorm_(weight.clone(), lookups, max_norm, norm_type)
    expected = pytorchs(weight, lookups, max_norm, norm_type)
    torch.testing.assert_close(actual, expected, equal_nan=True)
    assert torch.equal(actual[4], weight[4])


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 0)])
def test_indices_of_any_shape_and_dtype(
    dtype: torch.dtype, shape: tuple[int, ...], device: str
) -> None:
    weight = torch.randn(9, 4, device=device)
    lookups = torch.randint(9, shape, device=device).to(dtype)
    actual = embedding_renorm_(weight.clone(), lookups, 1.0)
    expected = pytorchs(weight, lookups, 1.0)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("num_rows, size", [(40, 500), (5000, 3000)])
def test_a_row_looked_up_often_is_scaled_once(num_rows: int, size: int, device: str) -> None:
    weight = torch.randn(num_rows, 16, device=device) * 4
    lookups = indices("zipf", size, num_rows, device=device)
    actual = embedding_renorm_(weight.clone(), lookups, 2.0)
    expected = pytorchs(weight, lookups, 2.0)
    torch.testing.assert_close(actual, expected)
    untouched = torch.ones(num_rows, dtype=torch.bool, device=device)
    untouched[lookups] = False
    assert torch.equal(actual[untouched], weight[untouched])


def sliced(table: Tensor) -> Tensor:
    return table[1:7, 1:5]


def transposed(table: Tensor) -> Tensor:
    return table.t()[1:7, 2:6]


def every_other_column(table: Tensor) -> Tensor:
    return table[::2, ::2]


@pytest.mark.parametrize("view", [sliced, transposed, every_other_column])
def test_a_view_changes_only_its_own_elements(view: object, device: str) -> None:
    assert callable(view)
    table = torch.randn(12, 12, device=device) * 3
    expected = table.cpu().clone()  # on a GPU PyTorch's takes a stride for the width: #195208
    lookups = torch.tensor([1, 4])
    assert view(table).shape[1] >= 4
    torch.embedding_renorm_(view(expected), lookups, 1.0, 2.0)
    embedding_renorm_(view(table), lookups.to(device), 1.0)
    torch.testing.assert_close(table.cpu(), expected)
    assert (table.cpu() != expected).sum() <= view(table)[lookups.to(device)].numel()


def test_a_table_without_columns_or_lookups(device: str) -> None:
    empty = torch.empty(3, 0, device=device)
    assert embedding_renorm_(empty, torch.tensor([0, 2], device=device), 1.0) is empty
    weight = torch.full((3, 2), 5.0, device=device)
    embedding_renorm_(weight, torch.empty(0, dtype=torch.long, device=device), 1.0)
    assert torch.equal(weight, torch.full((3, 2), 5.0, device=device))


def test_returns_the_table_and_bumps_its_version(device: str) -> None:
    weight = torch.ones(3, 2, device=device)
    version = weight._version
    assert embedding_renorm_(weight, torch.tensor([0], device=device), 1.0) is weight
    assert weight._version == version + 1


def test_a_leaf_that_requires_grad_is_refused(device: str) -> None:
    weight = torch.nn.Parameter(torch.full((3, 2), 5.0, device=device))
    lookups = torch.tensor([0], device=device)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used"):
        embedding_renorm_(weight, lookups, 1.0)
    assert torch.equal(weight, torch.full((3, 2), 5.0, device=device))
    with torch.no_grad():
        embedding_renorm_(weight, lookups, 1.0)
    assert weight[0].norm().item() == pytest.approx(1, abs=1e-6)


def test_a_table_saved_for_backward_is_protected(device: str) -> None:
    weight = torch.randn(3, 2, device=device, requires_grad=True)
    output = weight.square()
    embedding_renorm_(weight.detach(), torch.tensor([0], device=device), 1e-3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward(torch.ones_like(output))


@fatal_on_a_gpu
@pytest.mark.parametrize("bad", [[0, 7, 2], [-1, 0], [0, 1, -8], [2**40]])
def test_a_bad_index_changes_nothing(bad: list[int], device: str) -> None:
    weight = torch.full((7, 3), 9.0, device=device)
    before, version = weight.clone(), weight._version
    lookups = torch.tensor(bad, device=device)
    with refused(IndexError, "out of range", "index out of range"):
        embedding_renorm_(weight, lookups, 1.0)
    with refused(IndexError, "out of range", "index out of range"):
        embedding(lookups, weight, max_norm=1.0)
    with pytest.raises((IndexError, RuntimeError)):
        embedding_bag(lookups, weight, torch.tensor([0], device=device), max_norm=1.0)
    assert torch.equal(weight, before)
    assert weight._version == version


@pytest.mark.devices("cpu", "cudasim", why="the texts are those of PyTorch's CPU operator")
def test_argument_errors_are_pytorchs(device: str) -> None:
    lookups = torch.tensor([0], device=device)
    cases = [
        (torch.ones(3, device=device), lookups),
        (torch.ones(3, 2, device=device), lookups.float()),
        (torch.ones(3, 2, dtype=torch.long, device=device), lookups),
    ]
    for weight, rows in cases:
        with pytest.raises(RuntimeError) as theirs:
            torch.embedding_renorm_(weight, rows, 1.0, 2.0)
        with pytest.raises(RuntimeError) as ours:
            embedding_renorm_(weight, rows, 1.0)
        assert str(theirs.value).split("\n")[0] in str(ours.value)


@pytest.mark.parametrize(("dtype", "rows"), [(torch.uint8, 300), (torch.int16, 40_000)])
def test_tables_with_more_rows_than_the_dtype_of_indices_counts(
    dtype: torch.dtype, rows: int, device: str
) -> None:
    lookups = torch.tensor([torch.iinfo(dtype).max, 90, 90, 0], dtype=dtype, device=device)
    weight, expected_table = (torch.full((rows, 3), 2.0, device=device) for _ in range(2))
    starts = torch.tensor([0, 1, 4], device=device)
    output = embedding_bag_tables(lookups, [weight], starts, mode="sum", max_norm=1.0)
    expected = F.embedding_bag(lookups.long(), expected_table, starts[:2], max_norm=1.0, mode="sum")
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weight, expected_table)
