"""coalesce: what PyTorch's gives, from the kernels of this library."""

from __future__ import annotations

import pytest
import torch
from gpus import Gpu, compare
from inputs import FLOAT_DTYPES, indices
from optimizers import sparse
from simulator import fatal_on_a_gpu, refused
from torch import Tensor

from myemb.functional import coalesce, embedding

ROWS = 500


def gradient(rows: Tensor, values: Tensor) -> Tensor:
    return sparse(rows, values, ROWS)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [0, 1, 3, 33, 130])
@pytest.mark.parametrize("kind", ["empty", "one row", "uniform", "distinct"])
def test_integers_add_up_exactly(dtype: torch.dtype, width: int, kind: str, device: str) -> None:
    rows = {
        "empty": torch.empty(0, dtype=torch.int64),
        "one row": torch.full((700,), ROWS - 1),
        "uniform": torch.randint(ROWS, (2000,)),
        "distinct": torch.randperm(ROWS),
    }[kind].to(device)
    values = torch.randint(-1, 2, (len(rows), width)).to(device, dtype)
    ours = coalesce(gradient(rows, values))
    theirs = gradient(rows, values.double()).coalesce()
    assert ours.is_coalesced()
    assert ours.dtype == dtype
    assert torch.equal(ours.indices(), theirs.indices())
    assert torch.equal(ours.values().double(), theirs.values())
    assert ours.shape == theirs.shape


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("width", [1, 7, 64, 130])
@pytest.mark.parametrize("kind", ["uniform", "zipf", "one_row"])
def test_a_gpu_gives_the_bits_of_the_cpu(
    dtype: torch.dtype, width: int, kind: str, gpu: Gpu
) -> None:
    rows, values = indices(kind, 1500, ROWS), torch.randn(1500, width).to(dtype)
    compare(gpu, lambda *sparse: [coalesce(gradient(*sparse))], rows, values)


def test_the_gradient_of_a_lookup(device: str) -> None:
    weight = torch.randn(ROWS, 16, device=device, requires_grad=True)
    rows, upstream = torch.randint(ROWS, (3000,), device=device), torch.randn(3000, 16).to(device)
    out = embedding(rows, weight, sparse=True)
    (sparse,) = torch.autograd.grad(out, weight, upstream)
    ours, theirs = coalesce(sparse), sparse.coalesce()
    assert torch.equal(ours.indices(), theirs.indices())
    torch.testing.assert_close(ours.values(), theirs.values())


def test_sums_of_16_bits_are_rounded_once(device: str) -> None:
    values = torch.full((4096, 1), 1.0, dtype=torch.bfloat16, device=device)
    rows = torch.zeros(4096, dtype=torch.int64, device=device)
    assert coalesce(gradient(rows, values)).values().item() == 4096


def test_strided_values(device: str) -> None:
    rows = torch.randint(ROWS, (100,), device=device)
    values = torch.randn(8, 100, device=device).t()
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


@fatal_on_a_gpu
@pytest.mark.parametrize("bad", [-1, ROWS])
def test_a_bad_row_is_refused(bad: int, device: str) -> None:
    sparse = gradient(torch.tensor([0, bad]), torch.ones(2, 3))
    with refused(IndexError, f"index {bad} at position 1 .*500", "index out of range"):
        coalesce(sparse)
