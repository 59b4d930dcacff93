"""Builders of the inputs that the tests look up and reduce."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INDEX_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
WIDTHS = (1, 3, 7, 33, 130, 514, 2049)
MODES = ("sum", "mean", "max")


def whole_numbers(
    *shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", limit: int = 8
) -> Tensor:
    """Small whole numbers: sums of a few are exact in every dtype and in any order."""
    return torch.randint(-limit, limit + 1, shape, device=device).to(dtype)


def indices(
    kind: str, size: int, num_rows: int, dtype: torch.dtype = torch.int64, device: str = "cpu"
) -> Tensor:
    """``size`` lookups: ``uniform``, ``zipf`` (a few hot rows), ``one_row`` or ``distinct``."""
    if kind == "one_row":
        result = torch.full((size,), num_rows // 2)
    elif kind == "zipf":
        result = (num_rows ** torch.rand(size, dtype=torch.float64)).long().clamp(max=num_rows) - 1
    elif kind == "distinct":
        result = torch.randperm(num_rows)[:size]
    else:
        result = torch.randint(num_rows, (size,))
    return result.to(device=device, dtype=dtype)


def offsets(
    size: int,
    num_bags: int,
    include_last_offset: bool = False,
    dtype: torch.dtype = torch.int64,
    device: str = "cpu",
) -> Tensor:
    """Offsets of ``num_bags`` bags of very different lengths, some of them empty."""
    ends = (size * torch.rand(num_bags - 1, dtype=torch.float64) ** 2).long()
    ends[: num_bags // 4] = ends[:1].clone()  # bags that begin where others begin are empty
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends.sort().values])
    if include_last_offset:
        starts = torch.cat([starts, torch.tensor([size])])
    return starts.to(device=device, dtype=dtype)


def tolerance(dtype: torch.dtype, terms: int = 1) -> dict[str, float]:
    """What rounding a result once to ``dtype`` may do, and for float32 adding ``terms`` in it."""
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps * math.sqrt(max(terms, 1)))
    if dtype == torch.float64:
        eps = torch.finfo(dtype).eps * max(terms, 1)
    return {"rtol": 2 * eps, "atol": 2 * eps * max(1.0, math.sqrt(terms))}


def assert_near(actual: Tensor, expected: Tensor, terms: int = 1, scale: float = 1.0) -> None:
    """Compares a result with its float64 reference; ``scale`` is the size of what was added up."""
    assert expected.dtype == torch.float64
    assert actual.shape == expected.shape
    allowed = tolerance(actual.dtype, terms)
    torch.testing.assert_close(
        actual.detach().double().cpu(),
        expected.detach().cpu(),
        rtol=allowed["rtol"],
        atol=allowed["atol"] * scale,
    )


def variants(tensor: Tensor) -> dict[str, Tensor]:
    """The same values in several layouts; gradients flow through none of them."""
    padded = torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)
    shifted = torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    layouts = {"contiguous": tensor, "strided": padded[..., 0], "offset": shifted}
    if tensor.dim() == 2:
        layouts["transposed"] = tensor.t().contiguous().t()
    return layouts
