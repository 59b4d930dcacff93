"""How the elements of a vmapped call become one larger call of the same operator.

*Stacked*: the tables lie on top of each other, ``(batch * V, D)``. Element ``b`` looks up row
``index + b * V``, and its bags begin at ``offset + b * N``. An index that is out of range must not
become a row of a neighbour: it is moved to where the operator refuses it. Offsets are checked
before they are moved.

*Wide*: when only a gradient is batched, its batch lies beside its columns, and the lookups, which
all elements share, are grouped by row once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._padding import bag_padding_row

__all__ = [
    "Bags",
    "Batched",
    "in_front",
    "join_offsets",
    "positions_in_batch",
    "positions_in_element",
    "stack_bags",
    "stack_rows",
    "stack_tables",
    "widen",
]

_ops = torch.ops.myemb
_INDEX_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)

Batched = tuple[Tensor, int | None]
"""A tensor and where its batch dimension is, if it has one."""
OptionalBatched = tuple[Tensor | None, int | None]


def in_front(argument: Batched, batch: int) -> Tensor:
    """The tensor with its batch dimension first; an unbatched one is expanded."""
    tensor, dim = argument
    return tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def widen(argument: Batched) -> Tensor:
    """``(*, D)`` with a batch dimension anywhere, to ``(*, batch * D)``."""
    tensor, dim = argument
    assert dim is not None
    # Counted from the end, the dimension before the columns does not depend on where the batch was.
    return tensor.movedim(dim, -2).flatten(-2)


def stack_tables(tables: Tensor) -> tuple[Tensor, int]:
    """``(batch, V, D)`` to ``(batch * V, D)``, a view where possible, and V."""
    return tables.flatten(0, 1), tables.size(1)


def stack_rows(lookups: Tensor, num_rows: int, padding_idx: int = -1) -> Tensor:
    """The rows of a stacked table that the indices ``lookups``, ``(batch, *)``, name.

    Args:
        lookups: Indices of each element.
        num_rows: Rows of the table of one element.
        padding_idx: If not negative, the row that every element names when it means padding: it
            stays the row of the first element, so that one ``padding_idx`` serves all.
    """
    if lookups.dtype not in _INDEX_DTYPES:
        return lookups  # for the operator to refuse
    lookups = lookups.long()
    batch = lookups.size(0)
    past_end = lookups + (batch - 1) * num_rows
    rows = torch.where(lookups < num_rows, lookups + _steps(batch, num_rows, lookups), past_end)
    return torch.where((lookups < 0) | (lookups == padding_idx), lookups, rows)


def positions_in_batch(positions: Tensor, num_lookups: int) -> Tensor:
    """Positions ``(batch, B, D)`` within the lookups of an element, to those among all of them."""
    shifted = positions + _steps(positions.size(0), num_lookups, positions)
    return torch.where(positions < 0, positions, shifted)


def positions_in_element(positions: Tensor, num_lookups: int) -> Tensor:
    """The inverse of :func:`positions_in_batch`."""
    shifted = positions - _steps(positions.size(0), num_lookups, positions)
    return torch.where(positions < 0, positions, shifted)


class Bags(NamedTuple):
    """The bags of all elements as the arguments of one call, without last offset."""

    lookups: Tensor
    offsets: Tensor | None
    per_sample_weights: Tensor | None
    padding_idx: int | None
    num_bags: int
    """Bags of one element."""
    lookup_shape: torch.Size
    """The shape of the indices of one element."""

    @property
    def num_lookups(self) -> int:
        """Lookups of one element."""
        return self.lookup_shape.numel()


def stack_bags(
    batch: int,
    indices: Batched,
    offsets: OptionalBatched,
    per_sample_weights: OptionalBatched,
    include_last_offset: bool,
    padding_idx: int | None,
    num_rows: int | None,
) -> Bags:
    """Stacks the bags of a batch. ``num_rows`` is None if all elements look into one table.

    Raises:
        ValueError: ``indices`` or ``offsets`` has the wrong number of dimensions.
        RuntimeError: ``padding_idx`` is out of range, or there is no last offset.
    """
    lookups = in_front(indices, batch)
    shape = lookups.shape[1:]
    if len(shape) not in (1, 2):
        raise ValueError(
            f"input has to be 1D or 2D Tensor, but got Tensor of dimension {len(shape)}"
        )
    if num_rows is not None:
        if padding_idx is not None:
            padding_idx = bag_padding_row(padding_idx, num_rows)
        lookups = stack_rows(lookups, num_rows, -1 if padding_idx is None else padding_idx)
    starts, num_bags = None, shape[0]
    if offsets[0] is not None:
        starts, num_bags = _stack_offsets(
            in_front((offsets[0], offsets[1]), batch), shape[-1], include_last_offset
        )
    factors = None
    if per_sample_weights[0] is not None:
        factors = in_front((per_sample_weights[0], per_sample_weights[1]), batch).flatten(0, 1)
    return Bags(lookups.flatten(0, 1), starts, factors, padding_idx, num_bags, shape)


def _stack_offsets(
    offsets: Tensor, num_lookups: int, include_last_offset: bool
) -> tuple[Tensor, int]:
    """Offsets ``(batch, B)``, or ``(batch, B + 1)`` with the last, to ``(batch * B,)``; and B."""
    if offsets.dim() != 2:
        raise ValueError("offsets has to be a 1D Tensor")
    if include_last_offset and offsets.size(1) == 0:
        raise RuntimeError("include_last_offset: number of offset should be at least 1")
    starts = _ops.checked_offsets(offsets, num_lookups, include_last_offset)
    if include_last_offset:
        starts = starts[:, :-1]
    return (starts + _steps(offsets.size(0), num_lookups, offsets)).flatten(), starts.size(1)


def join_offsets(offsets: Tensor, num_lookups: int) -> Tensor:
    """Offsets ``(batch, n + 1)``, each with the last, to ``(batch * n + 1,)`` with the last."""
    starts, _ = _stack_offsets(offsets, num_lookups, include_last_offset=True)
    return torch.cat([starts, starts.new_full((1,), offsets.size(0) * num_lookups)])


def _steps(batch: int, step: int, like: Tensor) -> Tensor:
    """``0, step, 2 * step, ...`` along the first of the dimensions of ``like``."""
    steps = torch.arange(batch, device=like.device) * step
    return steps.view(batch, *(1,) * (like.dim() - 1))
