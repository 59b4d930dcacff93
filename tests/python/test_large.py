"""Gradients and norms in a table of more than 2**31 elements, of which only touched pages exist."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from myemb.functional import embedding, embedding_renorm_

WIDTH = 64
ROWS = 2**31 // WIDTH + 1000
LAST = 4  # rows at the end that hold values


@pytest.fixture(scope="module")
def weight() -> Tensor:
    """A bfloat16 table, 4.3 GB of addresses, whose last rows are 1, 2, 3, 4."""
    table = torch.empty(ROWS, WIDTH, dtype=torch.bfloat16)
    table[-LAST:] = torch.arange(1.0, LAST + 1).unsqueeze(1).expand(LAST, WIDTH)
    return table


@pytest.fixture
def lookups() -> Tensor:
    return torch.tensor([ROWS - 4, ROWS - 1, ROWS - 2, ROWS - 1])


def test_sparse_gradient_at_the_end(weight: Tensor, lookups: Tensor) -> None:
    leaf = weight.detach().requires_grad_()
    upstream = torch.randn(4, WIDTH).bfloat16()
    (gradient,) = torch.autograd.grad(embedding(lookups, leaf, sparse=True), leaf, upstream)
    assert gradient.shape == (ROWS, WIDTH)
    assert torch.equal(gradient._indices()[0], lookups)
    assert torch.equal(gradient._values(), upstream)


def test_renorm_at_the_end(weight: Tensor, lookups: Tensor) -> None:
    embedding_renorm_(weight, lookups, 8.0, float("inf"))  # all are smaller
    assert weight[-LAST:, 0].tolist() == [1, 2, 3, 4]
    embedding_renorm_(weight, lookups, 2.0, float("inf"))
    assert weight[-LAST:, 0].tolist() == [1, 2, 2, 2]
