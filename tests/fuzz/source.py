"""Random arguments: everything is drawn from the seed of one call, so that it can be made again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from inputs import FLOAT_DTYPES, INDEX_DTYPES
from torch import Tensor

Value = TypeVar("Value")

ROWS = (1, 2, 3, 7, 33, 130, 300)
WIDTHS = (0, 1, 2, 3, 7, 16, 17, 33, 64, 130)
COUNTS = (0, 1, 2, 3, 7, 33, 130)
BAGS = (0, 1, 2, 3, 7, 33)
OTHER_DTYPES = (torch.int64, torch.bool, torch.complex64, torch.int16)
NO_INDICES = (torch.float32, torch.bool, torch.int8, torch.complex64, torch.float64)
GUARD = 9  # what lies around a view
NORM_TYPES = (0.0, 0.5, 1.0, 2.0, 2.0, 3.0, float("inf"))
MAX_NORMS = (0.0, 0.5, 3.0, 3.0, 20.0, 20.0, 1e9, float("inf"), -1.0, float("nan"))


class Source:
    """Draws the arguments of call ``number`` of ``seed``."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = random.Random(f"{seed}:{number}")
        torch.manual_seed(self.random.getrandbits(62))

    def choice(self, values: Sequence[Value]) -> Value:
        return self.random.choice(values)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    # ---- tensors ---------------------------------------------------------------------------------

    def layout(self, tensor: Tensor) -> Tensor:
        """The same values, in half of the cases as a view into something larger."""
        kind = self.choice(("plain",) * 4 + ("offset", "strided", "padded", "transposed"))
        shape = tensor.shape
        if kind == "offset":
            base = tensor.new_full((tensor.numel() + 5,), GUARD)
            view = base[2 : tensor.numel() + 2].view(shape)
        elif kind == "strided":
            view = tensor.new_full((*shape, 2), GUARD)[..., 1]
        elif kind == "padded" and tensor.dim() > 0:
            view = tensor.new_full((*shape[:-1], shape[-1] + 3), GUARD)[..., 1:-2]
        elif kind == "transposed" and tensor.dim() > 1:
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        else:
            return tensor
        return view.copy_(tensor)

    def values(self, shape: Sequence[int], dtype: torch.dtype, special: bool = False) -> Tensor:
        """Whole numbers, whose sums are exact, or normal ones; a few NaN and infinite if asked."""
        kind = self.choice(("whole", "normal"))
        made = torch.randn(*shape) if kind == "normal" else torch.randint(-8, 9, shape).float()
        if special and made.numel():
            for value in (float("nan"), float("inf"), -float("inf"), -0.0):
                if self.chance(0.5):
                    made.view(-1)[self.random.randrange(made.numel())] = value
        return made.to(dtype)

    def spread(self, shape: Sequence[int], dtype: torch.dtype, special: bool = False) -> Tensor:
        """Values for reading: now and then all rows, or all columns, share their memory."""
        if not self.chance(0.15) or not shape:
            return self.layout(self.values(shape, dtype, special))
        narrow = list(shape)
        narrow[self.random.randrange(len(narrow))] = 1
        return self.values(narrow, dtype, special).expand(*shape)

    def table(self, special: bool = False, dtype: torch.dtype | None = None) -> Tensor:
        shape = (self.choice(ROWS), self.choice(WIDTHS))
        return self.layout(self.values(shape, dtype or self.choice(FLOAT_DTYPES), special))

    def index_dtype(self) -> torch.dtype:
        return self.choice((torch.int64, *INDEX_DTYPES))

    def lookups(self, shape: Sequence[int], rows: int, dtype: torch.dtype | None = None) -> Tensor:
        """Indices of a table of so many rows, some of them hot."""
        dtype = dtype or self.index_dtype()
        largest = min(rows, torch.iinfo(dtype).max + 1)
        made = torch.randint(largest, shape) if largest else torch.zeros(shape, dtype=torch.int64)
        if self.chance(0.3):
            made = made.clamp(max=self.choice((0, 1, 2)))
        return self.layout(made.to(dtype))

    def offsets(self, size: int, bags: int, include_last_offset: bool) -> Tensor:
        """Offsets of ``bags`` bags, several of them empty."""
        dtype = self.index_dtype()
        if size > torch.iinfo(dtype).max:
            dtype = torch.int64
        starts = sorted(self.random.randint(0, size) for _ in range(bags))
        if starts:
            starts[0] = 0
        if include_last_offset:
            starts = [*starts, size] if starts else [0]
        return self.layout(torch.tensor(starts, dtype=torch.int64).to(dtype))

    # ---- what is wrong ---------------------------------------------------------------------------

    def bad_index(self, indices: Tensor, rows: int) -> Tensor | None:
        """The same with one value out of range; None if there is no place or no such value."""
        if indices.numel() == 0 or indices.is_floating_point():
            return None
        limits = torch.iinfo(indices.dtype)
        wrong = [-1, rows, rows + 1, 2**31, 2**40, -(2**40), limits.min, limits.max]
        wrong = [v for v in wrong if limits.min <= v <= limits.max and not 0 <= v < rows]
        if not wrong:
            return None
        spoiled = indices.clone(memory_format=torch.contiguous_format)
        spoiled.view(-1)[self.random.randrange(spoiled.numel())] = self.choice(wrong)
        return spoiled

    def bad_offsets(self, offsets: Tensor, size: int, include_last_offset: bool) -> Tensor | None:
        starts = [int(start) for start in offsets]
        kind = self.choice(("late", "decreasing", "negative", "past", "empty", "last"))
        if kind == "late" and starts:
            starts[0] = 1
        elif kind == "decreasing" and len(starts) > 2 and starts[-1] > 0:
            starts[1], starts[2] = starts[-1], starts[-1] - 1
            starts[3:] = [starts[-1]] * len(starts[3:])
        elif kind == "negative" and len(starts) > 1:
            starts[1] = self.choice((-1, -(2**40)))
        elif kind == "past" and starts:
            starts[-1] = self.choice((size + 1, 2**40, 2**63 - 1))
        elif kind == "empty" and (size > 0 or include_last_offset):
            starts = []
        elif kind == "last" and include_last_offset and size > 0:
            starts[-1] = size - 1
            starts = [min(start, size - 1) for start in starts]
        else:
            return None
        return torch.tensor(starts, dtype=torch.int64)


def on_meta(arguments: dict[str, Any], name: str) -> None:
    """Moves one tensor away from the others."""
    arguments[name] = torch.empty_like(arguments[name], device="meta")
