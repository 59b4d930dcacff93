"""Under autocast: the dtypes of torch.nn, and weights of bags that a 16-bit layer has computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from inputs import MODES
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import myemb.functional as M
from myemb import nn

ROWS, WIDTH = 7, 4
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(torch.device(device).type, dtype=dtype)


@dtypes
@pytest.mark.parametrize("table", [torch.float32, torch.bfloat16])
def test_tables_keep_their_dtype_as_in_pytorch(
    dtype: torch.dtype, table: torch.dtype, device: str
) -> None:
    rows = torch.randint(ROWS, (3, 2), device=device)
    for name in ("Embedding", "EmbeddingBag"):
        torch.manual_seed(0)
        ours = getattr(nn, name)(ROWS, WIDTH, device=device, dtype=table)
        torch.manual_seed(0)
        theirs = getattr(torch.nn, name)(ROWS, WIDTH, device=device, dtype=table)
        linear = torch.nn.Linear(WIDTH, 2, device=device)
        with autocast(device, dtype):
            output, expected = ours(rows), theirs(rows)
            hidden = linear(output)
        assert (output.dtype, hidden.dtype) == (expected.dtype, dtype)
        torch.testing.assert_close(output, expected)
        hidden.float().sum().backward()
        assert ours.weight.grad is not None and ours.weight.grad.dtype == table


def weighted_bags(
    weight: Tensor, rows: Tensor, factors: Tensor, mode: str, max_norm: float | None
) -> Tensor:
    return M.embedding_bag(rows, weight, mode=mode, per_sample_weights=factors, max_norm=max_norm)


def weighted_tables(
    weight: Tensor, rows: Tensor, factors: Tensor, mode: str, max_norm: float | None
) -> Tensor:
    starts = torch.arange(0, rows.numel() + 1, rows.size(1), device=rows.device)
    return M.embedding_bag_tables(
        rows.flatten(),
        [weight],
        starts,
        mode=mode,
        per_sample_weights=factors.flatten(),
        max_norm=max_norm,
    )


def check_weighted(
    call: Callable[..., Tensor],
    table: torch.dtype,
    dtype: torch.dtype,
    mode: str,
    max_norm: float | None,
    device: str,
) -> None:
    weight = torch.randn(ROWS, WIDTH, device=device, dtype=table, requires_grad=True)
    factors = torch.rand(3, 2, device=device).to(dtype).requires_grad_()
    rows = torch.randint(ROWS, (3, 2), device=device)
    with autocast(device, dtype):
        output = call(weight, rows, factors, mode, max_norm)
    accumulated = torch.float64 if table == torch.float64 else torch.float32
    wide = factors.detach().to(accumulated if table != dtype else dtype).requires_grad_()
    expected = call(weight, rows, wide, mode, None)
    assert output.dtype == table
    assert torch.equal(output, expected)
    upstream = torch.randn_like(output)
    gradients = torch.autograd.grad(output, (weight, factors), upstream)
    assert [gradient.dtype for gradient in gradients] == [table, dtype]
    of_weight, of_factors = torch.autograd.grad(expected, (weight, wide), upstream)
    assert torch.equal(gradients[0], of_weight)
    assert torch.equal(gradients[1], of_factors.to(dtype))


@dtypes
@pytest.mark.parametrize("table", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_weights_of_16_bits_fit_every_table(
    table: torch.dtype, dtype: torch.dtype, mode: str, max_norm: float | None, device: str
) -> None:
    check_weighted(weighted_bags, table, dtype, mode, max_norm, device)


@dtypes
@pytest.mark.parametrize("table", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_weights_of_16_bits_fit_many_tables(
    table: torch.dtype, dtype: torch.dtype, max_norm: float | None, device: str
) -> None:
    for mode in MODES:
        check_weighted(weighted_tables, table, dtype, mode, max_norm, device)


def test_outside_of_autocast_they_are_refused_as_by_pytorch(device: str) -> None:
    refused = "to have the same type as tensor for argument|expected scalar type Float but found"
    weight, rows = torch.randn(ROWS, WIDTH, device=device), torch.zeros(1, 2, dtype=torch.long)
    factors = torch.ones(1, 2, dtype=torch.bfloat16, device=device)
    for bag in (M.embedding_bag, torch.nn.functional.embedding_bag):
        with pytest.raises(RuntimeError, match=refused):
            bag(rows.to(device), weight, mode="sum", per_sample_weights=factors)
    disabled = torch.autocast(torch.device(device).type, enabled=False)
    with (
        autocast(device, torch.bfloat16),
        disabled,
        pytest.raises(RuntimeError, match="to have the same type"),
    ):
        M.embedding_bag(rows.to(device), weight, mode="sum", per_sample_weights=factors)


class Attention(torch.nn.Module):
    """Bags whose weights a layer computes."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.keys = nn.Embedding(ROWS, WIDTH)
        self.score = torch.nn.Linear(WIDTH, 1)
        self.bags = nn.EmbeddingBag(ROWS, WIDTH, mode=mode)
        self.out = torch.nn.Linear(WIDTH, 2)

    def forward(self, rows: Tensor) -> Tensor:
        factors = self.score(self.keys(rows)).squeeze(-1)
        hidden: Tensor = self.out(self.bags(rows, per_sample_weights=factors))
        return hidden


@pytest.mark.parametrize("mode", ["sum", "max"])
def test_checkpointed_and_compiled(mode: str, device: str) -> None:
    torch.manual_seed(0)
    model: Any = Attention(mode).to(device)
    rows = torch.randint(ROWS, (3, 2), device=device)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)

    def gradients(call: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with autocast(device, torch.bfloat16):
            output = call(rows)
        assert output.dtype == torch.bfloat16
        return [output, *torch.autograd.grad(output.float().square().sum(), model.parameters())]

    expected = gradients(model)
    assert expected[0].float().abs().sum() > 0
    torch.testing.assert_close(gradients(compiled), expected)
    again = gradients(lambda rows: checkpoint(model, rows, use_reentrant=False))
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
