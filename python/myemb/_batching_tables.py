"""Batching rules of many tables: the features of all elements are features of one larger call.

The features of element ``e`` are ``e * F`` to ``e * F + F - 1``, so that lookups stay where they
are; a table that is not batched is read by the features of all elements.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from ._stacking import (
    in_front,
    join_offsets,
    positions_in_batch,
    positions_in_element,
)

__all__ = ["RULES"]

_ops = torch.ops.myemb
_MAX = 2


@dataclasses.dataclass
class _Tables:
    """The tables of one element, and what the features of all elements read in their stead."""

    batch: int
    dims: Sequence[int | None]
    feature_tables: Sequence[int]
    """Of one element."""

    @classmethod
    def of(
        cls, batch: int, dims: Sequence[int | None], feature_tables: Sequence[int] | None
    ) -> _Tables:
        return cls(batch, dims, range(len(dims)) if feature_tables is None else feature_tables)

    @property
    def copies(self) -> list[int]:
        """How many tables each table becomes."""
        return [1 if dim is None else self.batch for dim in self.dims]

    def weights(self, weights: Sequence[Tensor]) -> list[Tensor]:
        parts = [
            [weight] if dim is None else weight.unbind(dim)
            for weight, dim in zip(weights, self.dims, strict=True)
        ]
        return [part for of_table in parts for part in of_table]

    def each(self, options: Sequence[Any] | None) -> list[Any] | None:
        """An option of each table of an element, of each table of the call."""
        if options is None:
            return None
        return [
            option for option, count in zip(options, self.copies, strict=True) for _ in range(count)
        ]

    def places(self, tables: Sequence[int], element: int) -> list[int]:
        """Where these tables of an element are among those of the call."""
        first = [0, *itertools.accumulate(self.copies)]
        return [first[table] + (0 if self.dims[table] is None else element) for table in tables]

    @property
    def features(self) -> list[int]:
        """The tables that the features of all elements read."""
        elements = range(self.batch)
        return [table for e in elements for table in self.places(self.feature_tables, e)]

    def shared(self, tables: Sequence[int]) -> list[int]:
        """Those of the tables that all elements share."""
        return [self.places([table], 0)[0] for table in tables if self.dims[table] is None]


@dataclasses.dataclass
class _Lookups:
    """The lookups of all elements as those of one call."""

    indices: Tensor
    offsets: Tensor
    per_sample_weights: Tensor | None
    num_lookups: int
    """Of one element."""

    @classmethod
    def of(
        cls,
        batch: int,
        indices: Any,
        offsets: Any,
        per_sample_weights: Any = (None, None),
    ) -> _Lookups:
        """Each argument with its batch dimension."""
        lookups = in_front(indices, batch)
        if lookups.dim() != 2:
            raise ValueError(
                f"indices has to be a 1D Tensor, but got Tensor of dimension {lookups.dim() - 1}"
            )
        factors = None
        if per_sample_weights[0] is not None:
            factors = in_front(per_sample_weights, batch).reshape(-1)
        starts = join_offsets(in_front(offsets, batch), lookups.size(1))
        return cls(lookups.reshape(-1), starts, factors, lookups.size(1))


class _Forward(NamedTuple):
    """The arguments of embedding_bag_tables; embedding_bag_tables_max has all but the last."""

    weights: list[Tensor]
    indices: Tensor
    offsets: Tensor
    feature_tables: list[int] | None = None
    modes: list[int] | None = None
    per_sample_weights: Tensor | None = None
    padding_idx: list[int] | None = None
    sparse_tables: Sequence[int] = ()


def _joined(batch: int, in_dims: Sequence[Any], call: _Forward) -> tuple[_Forward, int]:
    """The call for all elements, and the number of lookups of one."""
    dims: Any = _Forward(*in_dims)  # which lack those of arguments that the caller left out, too
    tables = _Tables.of(batch, dims.weights, call.feature_tables)
    lookups = _Lookups.of(
        batch,
        (call.indices, dims.indices),
        (call.offsets, dims.offsets),
        (call.per_sample_weights, dims.per_sample_weights),
    )
    joined = _Forward(
        tables.weights(call.weights),
        lookups.indices,
        lookups.offsets,
        tables.features,
        tables.each(call.modes),
        lookups.per_sample_weights,
        tables.each(call.padding_idx),
        tables.shared(call.sparse_tables),
    )
    return joined, lookups.num_lookups


def _embedding_bag_tables(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
    call, _ = _joined(info.batch_size, in_dims, _Forward(*arguments))
    return _split_columns(_ops.embedding_bag_tables(*call), info.batch_size), 1


def _embedding_bag_tables_max(
    info: Any, in_dims: Sequence[Any], *arguments: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    call, num_lookups = _joined(info.batch_size, in_dims, _Forward(*arguments))
    output, positions = _ops.embedding_bag_tables_max(*call[:-1])
    positions = _split_columns(positions, info.batch_size).movedim(1, 0)
    positions = positions_in_element(positions, num_lookups)
    return (_split_columns(output, info.batch_size), positions), (1, 0)


class _Backward(NamedTuple):
    """The arguments of embedding_bag_tables_backward."""

    grad_output: Tensor
    indices: Tensor
    offsets: Tensor
    positions: Tensor | None
    num_weights: list[int]
    embedding_dims: list[int]
    dtypes: list[int]
    feature_tables: list[int] | None
    modes: list[int] | None
    per_sample_weights: Tensor | None
    padding_idx: list[int] | None
    sparse_tables: list[int]
    wanted_tables: list[int]


def _embedding_bag_tables_backward(
    info: Any, in_dims: Sequence[Any], *arguments: Any
) -> tuple[list[Tensor], list[int]]:
    call = _Backward(*arguments)
    if all(dim is None for dim in _pytree.tree_leaves(in_dims[1:])) and not call.sparse_tables:
        return _backward_of_gradients(info.batch_size, in_dims[0], call)
    return _backward_of_elements(info.batch_size, in_dims, call)


def _backward_of_gradients(
    batch: int, grad_dim: int, call: _Backward
) -> tuple[list[Tensor], list[int]]:
    """Where only the gradient is batched: side by side, the rows are grouped once for all."""
    tables, modes, positions = call.feature_tables, call.modes, call.positions
    features = range(len(call.num_weights)) if tables is None else tables
    widths = [call.embedding_dims[table] for table in features]
    of_max = [
        width
        for table, width in zip(features, widths, strict=True)
        if modes is not None and modes[table] == _MAX
    ]
    if positions is not None:
        positions = _beside(positions.unsqueeze(1).expand(-1, batch, -1), of_max)
    grad_output = in_front((call.grad_output, grad_dim), batch).movedim(0, 1)
    wide = call._replace(
        grad_output=_beside(grad_output, widths),
        positions=positions,
        embedding_dims=[batch * dim for dim in call.embedding_dims],
    )
    gradients = _ops.embedding_bag_tables_backward(*wide)
    split = [_split_columns(gradient, batch) for gradient in gradients]
    return split, [1] * len(split)


def _backward_of_elements(
    batch: int, in_dims: Sequence[Any], call: _Backward
) -> tuple[list[Tensor], list[int]]:
    """Each element has tables of its own."""
    dims = _Backward(*in_dims)
    tables = _Tables.of(batch, [0] * len(call.num_weights), call.feature_tables)
    lookups = _Lookups.of(
        batch,
        (call.indices, dims.indices),
        (call.offsets, dims.offsets),
        (call.per_sample_weights, dims.per_sample_weights),
    )
    gradients = _ops.embedding_bag_tables_backward(
        _join_columns(in_front((call.grad_output, in_dims[0]), batch)),
        lookups.indices,
        lookups.offsets,
        _join_positions((call.positions, dims.positions), batch, lookups.num_lookups),
        tables.each(call.num_weights),
        tables.each(call.embedding_dims),
        tables.each(call.dtypes),
        tables.features,
        tables.each(call.modes),
        lookups.per_sample_weights,
        tables.each(call.padding_idx),
        [place for e in range(batch) for place in tables.places(call.sparse_tables, e)],
        [place for t in call.wanted_tables for place in range(batch * t, batch * (t + 1))],
    )
    stacked = [
        _stacked(gradients[batch * i : batch * (i + 1)]) for i in range(len(call.wanted_tables))
    ]
    return stacked, [0] * len(stacked)


def _embedding_bag_tables_per_sample_weights_backward(
    info: Any,
    in_dims: Sequence[Any],
    grad_output: Tensor,
    weights: list[Tensor],
    indices: Tensor,
    offsets: Tensor,
    positions: Tensor | None,
    feature_tables: list[int] | None,
    modes: list[int] | None,
    padding_idx: list[int] | None,
) -> tuple[Tensor, int]:
    batch = info.batch_size
    tables = _Tables.of(batch, in_dims[1], feature_tables)
    lookups = _Lookups.of(batch, (indices, in_dims[2]), (offsets, in_dims[3]))
    gradient = _ops.embedding_bag_tables_per_sample_weights_backward(
        _join_columns(in_front((grad_output, in_dims[0]), batch)),
        tables.weights(weights),
        lookups.indices,
        lookups.offsets,
        _join_positions((positions, in_dims[4]), batch, lookups.num_lookups),
        tables.features,
        tables.each(modes),
        tables.each(padding_idx),
    )
    return gradient.view(batch, lookups.num_lookups), 0


RULES: dict[str, Callable[..., Any]] = {
    "embedding_bag_tables": _embedding_bag_tables,
    "embedding_bag_tables_max": _embedding_bag_tables_max,
    "embedding_bag_tables_backward": _embedding_bag_tables_backward,
    "embedding_bag_tables_per_sample_weights_backward": (
        _embedding_bag_tables_per_sample_weights_backward
    ),
}


def _split_columns(rows: Tensor, batch: int) -> Tensor:
    """``(*, batch * C)`` to ``(*, batch, C)``."""
    return rows.reshape(*rows.shape[:-1], batch, rows.size(-1) // batch)


def _join_columns(stacked: Tensor) -> Tensor:
    """``(batch, B, C)`` to ``(B, batch * C)``."""
    return stacked.movedim(0, 1).flatten(1)


def _join_positions(positions: Any, batch: int, num_lookups: int) -> Tensor | None:
    if positions[0] is None:
        return None
    return _join_columns(positions_in_batch(in_front(positions, batch), num_lookups))


def _beside(columns: Tensor, widths: Sequence[int]) -> Tensor:
    """``(B, batch, sum(widths))``: those of each feature, of all elements, beside each other."""
    return torch.cat([part.flatten(1) for part in torch.split(columns, list(widths), -1)], 1)


def _stacked(gradients: Sequence[Tensor]) -> Tensor:
    """The gradients of a table, of each element one."""
    if len({gradient.size(0) for gradient in gradients}) > 1:
        raise RuntimeError(
            "vmap: the sparse gradients of a table have as many entries as it has lookups, and "
            "that is not the same number in every element"
        )
    return torch.stack(list(gradients))
