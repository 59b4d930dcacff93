"""coalesce: what PyTorch's gives, from the kernels of this library."""

from __future__ import annotations

import pytest
import torch
from inputs import FLOAT_DTYPES
from optimizers import sparse
from torch import Tensor

from myemb.functional import coalesce, embedding

ROWS = 500


def gradient(rows: Tensor, values: Tensor) -> Tensor:
    return sparse(rows, values, ROWS)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [0, 1, 3, 33, 130])
@pytest.mark.parametrize("kind", ["empty", "one row", "uniform", "distinct"])
def test_integers_add_up_exactly(dtype: torch.dtype, width: int, kind: str) -> None:
    rows = {
        "empty": torch.empty(0, dtype=torch.int64),
        "one row": torch.full((700,), ROWS - 1),
        "uniform": torch.randint(ROWS, (2000,)),
        "distinct": torch.randperm(ROWS),
    }[kind]
    values = torch.randint(-1, 2, (len(rows), width)).to(dtype)
    ours = coalesce(gradient(rows, values))
    theirs = gradient(rows, values.double()).coalesce()
    assert ours.is_coalesced()
    assert ours.dtype == dtype
    assert torch.equal(ours.indices(), theirs.indices())
    assert torch.equal(ours.values().double(), theirs.values())
    assert ours.shape == theirs.shape


def test_the_gradient_of_a_lookup() -> None:
    weight, rows = torch.randn(ROWS, 16, requires_grad=True), torch.randint(ROWS, (3000,))
    upstream = torch.randn(3000, 16)
    out = embedding(rows, weight, sparse=True)
    (sparse,) = torch.autograd.grad(out, weight, upstream)
    ours, theirs = coalesce(sparse), sparse.coalesce()
    assert torch.equal(ours.indices(), theirs.indices())
    torch.testing.assert_close(ours.values(), theirs.values())


def test_sums_of_16_bits_are_rounded_once() -> None:
    values = torch.full((4096, 1), 1.0, dtype=torch.bfloat16)
    assert coalesce(gradient(torch.zeros(4096, dtype=torch.int64), values)).values().item() == 4096


def test_strided_values() -> None:
    rows, values = torch.randint(ROWS, (100,)), torch.randn(8, 100).t()
    torch.testing.assert_close(
        coalesce(gradient(rows, values)).to_dense(), gradient(rows, values).coalesce().to_dense()
    )


def test_a_coalesced_tensor_is_returned() -> None:
    coalesced = gradient(torch.arange(5), torch.randn(5, 2)).coalesce()
    assert coalesce(coalesced) is coalesced


@pytest.mark.parametrize("values", [torch.randn(4), torch.randn(4, 2, 2), torch.ones(4, 2).long()])
def test_what_is_no_gradient_goes_to_pytorch(values: Tensor) -> None:
    other = gradient(torch.tensor([1, 0, 1, 3]), values)
    assert torch.equal(coalesce(other).to_dense(), other.coalesce().to_dense())


def test_it_is_differentiable() -> None:
    values = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    summed = coalesce(gradient(torch.tensor([1, 0, 1, 3]), values))
    (ours,) = torch.autograd.grad(summed.to_dense()[1, 0], values)
    assert ours.tolist() == [[1, 0], [0, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize("bad", [-1, ROWS])
def test_a_bad_row_is_refused(bad: int) -> None:
    with pytest.raises(IndexError, match=f"index {bad} at position 1 .*500"):
        coalesce(gradient(torch.tensor([0, bad]), torch.ones(2, 3)))
