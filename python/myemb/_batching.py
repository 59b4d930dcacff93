"""Batching rules: what ``torch.vmap`` does with each operator, in one call of that operator.

Each rule takes a description of the batch, the batch dimension of each argument, and the arguments
of its operator; it returns the outputs and where their batch dimensions are. See ``_stacking``.

A table that is stacked gets a dense gradient even with ``sparse=True``: autograd cannot cut a
sparse one into the gradients of the elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ._batching_legacy import register_legacy
from ._batching_tables import RULES
from ._stacking import (
    Bags,
    in_front,
    positions_in_batch,
    positions_in_element,
    stack_bags,
    stack_rows,
    stack_tables,
    widen,
)

__all__ = ["register"]

Dims = tuple[int | None, ...]

_ops = torch.ops.myemb
_library = torch.library.Library("myemb", "IMPL")  # type: ignore[no-untyped-call]


def register() -> None:
    """Registers every rule with ``torch.library``."""
    rules: dict[str, Callable[..., Any]] = {
        "embedding": _embedding,
        "embedding_dense_backward": _embedding_dense_backward,
        "embedding_renorm_": _embedding_renorm_,
        "embedding_bag": _embedding_bag,
        "embedding_bag_max": _embedding_bag_max,
        "checked_offsets": _checked_offsets,
        "embedding_bag_dense_backward": _embedding_bag_dense_backward,
        "embedding_bag_sparse_backward": _embedding_bag_sparse_backward,
        "embedding_bag_per_sample_weights_backward": _embedding_bag_per_sample_weights_backward,
    }
    rules |= RULES
    for name, rule in rules.items():
        torch.library.register_vmap(f"myemb::{name}", rule)
    register_legacy(_library, rules)
    for name in ("embedding_update_", "embedding_bag_tables_update_"):
        torch.library.register_vmap(f"myemb::{name}", _refuse)


def _embedding(
    info: Any,
    in_dims: Dims,
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> tuple[Tensor, int]:
    weight_dim, indices_dim = in_dims[:2]
    if weight_dim is None and indices_dim is not None and not scale_grad_by_freq:
        return _ops.embedding(weight, indices, padding_idx, False, sparse), indices_dim
    # The frequency of a row is counted within an element: each needs rows of its own for that.
    batch = info.batch_size
    tables, num_rows = stack_tables(in_front((weight, weight_dim), batch))
    lookups = in_front((indices, indices_dim), batch)
    rows = stack_rows(lookups, num_rows)
    output = _ops.embedding(tables, rows, -1, scale_grad_by_freq, False)
    if padding_idx >= 0:
        # One padding_idx cannot name the padding row of every table, and their values are wanted.
        is_padding = (lookups == padding_idx).unsqueeze(-1)
        output = torch.where(is_padding, output.detach(), output)
    return output, 0


def _embedding_dense_backward(
    info: Any,
    in_dims: Dims,
    grad_output: Tensor,
    indices: Tensor,
    num_weights: int,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
) -> tuple[Tensor, int]:
    grad_dim, indices_dim = in_dims[:2]
    batch = info.batch_size
    options = (padding_idx, scale_grad_by_freq)
    if indices_dim is None:
        wide = widen((grad_output, grad_dim))
        grad = _ops.embedding_dense_backward(wide, indices, num_weights, *options)
        return grad.reshape(num_weights, batch, wide.size(-1) // batch), 1
    rows = stack_rows(in_front((indices, indices_dim), batch), num_weights, padding_idx)
    stacked = in_front((grad_output, grad_dim), batch)
    grad = _ops.embedding_dense_backward(stacked, rows, batch * num_weights, *options)
    return grad.reshape(batch, num_weights, grad.size(1)), 0


def _embedding_renorm_(
    info: Any,
    in_dims: Dims,
    weight: Tensor,
    indices: Tensor,
    max_norm: float,
    norm_type: float = 2.0,
) -> tuple[Tensor, int | None]:
    weight_dim, indices_dim = in_dims[:2]
    if weight_dim is None:
        # The elements share the table, so they also share the rows to scale.
        return _ops.embedding_renorm_(weight, indices, max_norm, norm_type), None
    batch = info.batch_size
    in_place = weight.movedim(weight_dim, 0)
    tables, num_rows = stack_tables(in_place)
    rows = stack_rows(in_front((indices, indices_dim), batch), num_rows)
    _ops.embedding_renorm_(tables, rows, max_norm, norm_type)
    if not in_place.is_contiguous():  # then the stacked tables are a copy
        in_place.copy_(tables.view(in_place.shape))
    return weight, weight_dim


def _checked_offsets(
    info: Any,
    in_dims: Dims,
    offsets: Tensor,
    num_lookups: int,
    include_last_offset: bool = False,
) -> tuple[Tensor, int]:
    stacked = in_front((offsets, in_dims[0]), info.batch_size)
    return _ops.checked_offsets(stacked, num_lookups, include_last_offset), 0


class _Bag(NamedTuple):
    """The arguments of embedding_bag."""

    weight: Tensor
    indices: Tensor
    offsets: Tensor | None = None
    scale_grad_by_freq: bool = False
    mode: int = 0
    sparse: bool = False
    per_sample_weights: Tensor | None = None
    include_last_offset: bool = False
    padding_idx: int | None = None


class _BagMax(NamedTuple):
    """The arguments of embedding_bag_max."""

    weight: Tensor
    indices: Tensor
    offsets: Tensor | None = None
    per_sample_weights: Tensor | None = None
    include_last_offset: bool = False
    padding_idx: int | None = None


class _BagDense(NamedTuple):
    """The arguments of embedding_bag_dense_backward."""

    grad_output: Tensor
    indices: Tensor
    offsets: Tensor | None
    positions: Tensor | None
    num_weights: int
    scale_grad_by_freq: bool
    mode: int
    per_sample_weights: Tensor | None
    include_last_offset: bool
    padding_idx: int | None


class _BagSparse(NamedTuple):
    """The arguments of embedding_bag_sparse_backward."""

    grad_output: Tensor
    indices: Tensor
    offsets: Tensor | None
    num_weights: int
    scale_grad_by_freq: bool
    mode: int
    per_sample_weights: Tensor | None
    include_last_offset: bool
    padding_idx: int | None


CallT = TypeVar("CallT", _Bag, _BagMax, _BagDense, _BagSparse)


def _stacked(batch: int, call: CallT, dims: Any, num_rows: int | None) -> tuple[CallT, Bags]:
    """The call with the bags of all elements, and what they are; see ``stack_bags``."""
    bags = stack_bags(
        batch,
        (call.indices, dims.indices),
        (call.offsets, dims.offsets),
        (call.per_sample_weights, dims.per_sample_weights),
        call.include_last_offset,
        call.padding_idx,
        num_rows,
    )
    stacked = call._replace(
        indices=bags.lookups,
        offsets=bags.offsets,
        per_sample_weights=bags.per_sample_weights,
        include_last_offset=False,
        padding_idx=bags.padding_idx,
    )
    return stacked, bags


def _embedding_bag(info: Any, in_dims: Dims, *arguments: Any) -> tuple[Tensor, int]:
    batch, call, dims = info.batch_size, _Bag(*arguments), _dims_of(_Bag, in_dims)
    num_rows = None
    if dims.weight is not None or call.scale_grad_by_freq:
        weight, num_rows = stack_tables(in_front((call.weight, dims.weight), batch))
        call = call._replace(weight=weight, sparse=False)
    call, bags = _stacked(batch, call, dims, num_rows)
    return _split(_ops.embedding_bag(*call), batch, bags.num_bags), 0


def _embedding_bag_max(
    info: Any, in_dims: Dims, *arguments: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    batch, call, dims = info.batch_size, _BagMax(*arguments), _dims_of(_BagMax, in_dims)
    num_rows = None
    if dims.weight is not None:
        weight, num_rows = stack_tables(in_front((call.weight, dims.weight), batch))
        call = call._replace(weight=weight)
    call, bags = _stacked(batch, call, dims, num_rows)
    output, positions = _ops.embedding_bag_max(*call)
    positions = _split(positions, batch, bags.num_bags)
    positions = positions_in_element(positions, bags.num_lookups)
    return (_split(output, batch, bags.num_bags), positions), (0, 0)


def _embedding_bag_dense_backward(info: Any, in_dims: Dims, *arguments: Any) -> tuple[Tensor, int]:
    batch, call, dims = info.batch_size, _BagDense(*arguments), _dims_of(_BagDense, in_dims)
    num_weights, positions = call.num_weights, call.positions
    if _only_first_is_batched(in_dims):
        wide = widen((call.grad_output, dims.grad_output))
        if positions is not None:
            positions = positions.unsqueeze(1).expand(-1, batch, -1).flatten(1)
        call = call._replace(grad_output=wide, positions=positions)
        grad = _ops.embedding_bag_dense_backward(*call)
        return grad.reshape(num_weights, batch, wide.size(1) // batch), 1
    call, bags = _stacked(batch, call, dims, num_weights)
    call = call._replace(
        grad_output=in_front((call.grad_output, dims.grad_output), batch).flatten(0, 1),
        positions=_stack_positions(positions, dims.positions, batch, bags.num_lookups),
        num_weights=batch * num_weights,
    )
    return _split(_ops.embedding_bag_dense_backward(*call), batch, num_weights), 0


def _embedding_bag_sparse_backward(info: Any, in_dims: Dims, *arguments: Any) -> tuple[Tensor, int]:
    batch, call, dims = info.batch_size, _BagSparse(*arguments), _dims_of(_BagSparse, in_dims)
    call, bags = _stacked(batch, call, dims, call.num_weights)
    call = call._replace(
        grad_output=in_front((call.grad_output, dims.grad_output), batch).flatten(0, 1),
        num_weights=batch * call.num_weights,
    )
    return _split(_ops.embedding_bag_sparse_backward(*call), batch, bags.num_lookups), 0


def _embedding_bag_per_sample_weights_backward(
    info: Any,
    in_dims: Dims,
    grad_output: Tensor,
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    positions: Tensor | None,
    mode: int,
    include_last_offset: bool,
    padding_idx: int | None,
) -> tuple[Tensor, int]:
    batch = info.batch_size
    num_rows = None
    if in_dims[1] is not None:
        weight, num_rows = stack_tables(in_front((weight, in_dims[1]), batch))
    bags = stack_bags(
        batch,
        (indices, in_dims[2]),
        (offsets, in_dims[3]),
        (None, None),
        include_last_offset,
        padding_idx,
        num_rows,
    )
    grad = _ops.embedding_bag_per_sample_weights_backward(
        in_front((grad_output, in_dims[0]), batch).flatten(0, 1),
        weight,
        bags.lookups,
        bags.offsets,
        _stack_positions(positions, in_dims[4], batch, bags.num_lookups),
        mode,
        False,
        bags.padding_idx,
    )
    return grad.reshape(batch, *bags.lookup_shape), 0


def _refuse(*_arguments: Any, **_options: Any) -> None:
    raise NotImplementedError(
        "myemb: a step of an optimizer changes its table in place, and vmap has none for each "
        "element: make the steps outside of vmap"
    )


def _stack_positions(
    positions: Tensor | None, dim: int | None, batch: int, num_lookups: int
) -> Tensor | None:
    if positions is None:
        return None
    return positions_in_batch(in_front((positions, dim), batch), num_lookups).flatten(0, 1)


def _split(rows: Tensor, batch: int, num_rows: int) -> Tensor:
    """``(batch * num_rows, D)`` to ``(batch, num_rows, D)``."""
    return rows.reshape(batch, num_rows, rows.size(1))


def _dims_of(arguments: Callable[..., Any], in_dims: Dims) -> Any:
    """The batch dimension of each tensor, by its name; None if the caller left it out."""
    return arguments(*in_dims)


def _only_first_is_batched(in_dims: Dims) -> bool:
    return in_dims[0] is not None and all(dim is None for dim in in_dims[1:])
