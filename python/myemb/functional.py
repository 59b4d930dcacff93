"""The operators with the signatures of ``torch.nn.functional``.

A call costs one pybind11 entry into the dispatcher; ``torch.compile`` sees ``torch.ops.myemb.*``
instead, which it can trace. Arguments are checked in C++, before anything is written. Nothing is
kept between calls.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn import Parameter
from torch.overrides import (
    handle_torch_function,
    has_torch_function,
    has_torch_function_variadic,
)

from . import _C
from ._compile import prepare_compiler
from ._features import for_tables
from ._nested import nested_lookup, refuse_nested_weights, unpack_nested_bags
from ._padding import padding_row, padding_rows
from ._sharding import Bags, is_sharded, sharded_embedding, sharded_embedding_bag
from ._tables import renorm_tables, sparse_tables_in_graph

__all__ = ["coalesce", "embedding", "embedding_bag", "embedding_bag_tables", "embedding_renorm_"]

# Bound once: attribute look-ups would be a measurable part of a call on eight indices.
_embedding = _C.embedding
_embedding_bag = _C.embedding_bag
_embedding_renorm_ = _C.embedding_renorm_
_check_embedding_bag = _C.check_embedding_bag
_embedding_bag_tables = _C.embedding_bag_tables
_check_embedding_bag_tables = _C.check_embedding_bag_tables
_ops = torch.ops.myemb
# What a graph calls. Whatever a traced call reads is looked at again before each run of the graph,
# which on a few indices takes as long as the lookup: each name that is read counts.
_graph_embedding = _ops.embedding.default
_graph_embedding_bag = _ops.embedding_bag.default
_graph_embedding_renorm_ = _ops.embedding_renorm_.default
_graph_embedding_bag_tables = _ops.embedding_bag_tables.default

MODES, UNKNOWN_MODE = {"sum": 0, "mean": 1, "max": 2}, -1


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Looks up rows of a table: ``torch.nn.functional.embedding``.

    Args:
        input: Indices of any shape ``(*)``; uint8, int16, int32 or int64. A nested tensor gives
            one.
        weight: The table, ``(V, D)``, of any dtype; gradients need float64, float32, float16 or
            bfloat16.
        padding_idx: Lookups of this row add nothing to the gradient; negative values count from
            the end.
        max_norm: If given, each row that is looked up and whose norm is larger is first scaled
            down to this norm, in place and without gradient.
        norm_type: The p of that p-norm.
        scale_grad_by_freq: Divide the gradient of a row by the number of its lookups in ``input``.
        sparse: Make the gradient of ``weight`` a sparse COO tensor. Allowed with
            ``scale_grad_by_freq``.

    Returns:
        ``(*, D)`` in the dtype of ``weight``.

    Raises:
        IndexError: An index is not in ``[0, V)``; no row has been renormalised then.
        RuntimeError: A dtype or the shape of ``weight`` does not fit.
        AssertionError: ``padding_idx`` is not in ``[-V, V)``.
    """
    entry = _embedding
    if is_dynamo_compiling():
        prepare_compiler()  # it has Dynamo trace later calls in _dynamo.py
        entry = _graph_embedding
    if has_torch_function_variadic(input, weight):
        return handle_torch_function(
            embedding,
            (input, weight),
            input,
            weight,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
        )
    if weight.__class__ is not Parameter and weight.__class__ is not Tensor and is_sharded(weight):
        return sharded_embedding(
            input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
        )
    if input.is_nested:
        options = (padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        return nested_lookup(lambda part: embedding(part, weight, *options), input)
    if padding_idx is None:
        padding_idx = -1
    elif padding_idx and not 0 < padding_idx < weight.size(0):  # row 0 passes, as in PyTorch
        padding_idx = padding_row(padding_idx, weight.size(0))
    if max_norm is not None:
        input = input.contiguous()
        renorm_for_lookup(weight, input, max_norm, norm_type)
    return entry(weight, input, padding_idx, scale_grad_by_freq, sparse)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Reduces bags of rows without building the rows: ``torch.nn.functional.embedding_bag``.

    Args:
        input: Indices; uint8, int16, int32 or int64. ``(B, N)`` is ``B`` bags of ``N`` lookups,
            ``(N,)`` is cut into bags by ``offsets``, and a 2-D nested tensor is a bag per
            component.
        weight: The table, ``(V, D)``; float64, float32, float16 or bfloat16.
        offsets: Where each bag begins in a 1-D ``input``, ``(B,)`` of an index dtype: first 0,
            never decreasing, never past ``N``. Must be ``None`` for a 2-D ``input``.
        max_norm: As in :func:`embedding`. Every other argument is checked before a row is changed.
        norm_type: The p of that p-norm.
        scale_grad_by_freq: Divide the gradient of a row by the number of its lookups in all of
            ``input``. Not with ``mode="max"``.
        mode: ``"sum"``, ``"mean"`` or ``"max"``. The maximum of a column is taken at its first
            occurrence.
        sparse: Make the gradient of ``weight`` a sparse COO tensor. Not with ``mode="max"``.
        per_sample_weights: One factor for each lookup, in the shape of ``input`` and the dtype of
            ``weight``, or in float32 with a 16-bit table. With ``"mean"`` the weighted sum is
            divided by the number of lookups, with ``"max"`` the weighted rows are compared.
        include_last_offset: ``offsets`` is ``(B + 1,)`` and ends with ``N``. Ignored for a 2-D
            ``input``.
        padding_idx: Lookups of this row are left out of the bag and get no gradient; negative
            values count from the end.

    Returns:
        ``(B, D)`` in the dtype of ``weight``; zeros for an empty bag.

    Raises:
        ValueError: A shape, ``offsets`` or ``mode`` does not fit, or ``mode="max"`` meets an
            option that it does not support.
        RuntimeError: A dtype does not fit, or an index, an offset or ``padding_idx`` is out of
            range.
    """
    if has_torch_function_variadic(input, weight, offsets, per_sample_weights):
        return handle_torch_function(
            embedding_bag,
            (input, weight, offsets, per_sample_weights),
            input,
            weight,
            offsets=offsets,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            per_sample_weights=per_sample_weights,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
    if weight.__class__ is not Parameter and weight.__class__ is not Tensor and is_sharded(weight):
        bags = Bags(input, offsets, per_sample_weights, include_last_offset)
        options = (max_norm, norm_type, scale_grad_by_freq, mode, sparse, padding_idx)
        return sharded_embedding_bag(bags, weight, *options)
    if weight.dtype is torch.long and input.is_floating_point():
        _warn_of_argument_order()
        weight, input = input, weight
    if input.is_nested:
        input, offsets, per_sample_weights = unpack_nested_bags(input, per_sample_weights)
        include_last_offset = True
    elif per_sample_weights is not None:
        refuse_nested_weights(input, per_sample_weights)
    # An unknown mode is refused in C++, where it takes its turn among the other checks.
    mode_enum = MODES.get(mode, UNKNOWN_MODE)
    if max_norm is not None:
        # In a graph the shapes are checked while it is traced, the offsets when the bags are read.
        if not is_dynamo_compiling():
            _check_embedding_bag(
                weight,
                input,
                offsets,
                mode_enum,
                scale_grad_by_freq,
                sparse,
                per_sample_weights,
                include_last_offset,
                padding_idx,
            )
        renorm_for_lookup(weight, input, max_norm, norm_type)
    entry = _graph_embedding_bag if is_dynamo_compiling() else _embedding_bag
    return entry(
        weight,
        input,
        offsets,
        scale_grad_by_freq,
        mode_enum,
        sparse,
        per_sample_weights,
        include_last_offset,
        padding_idx,
    )


def _warn_of_argument_order() -> None:
    warnings.warn(
        "Argument order of nn.functional.embedding_bag was changed. "
        "Usage `embedding_bag(weight, input, ...)` is deprecated, "
        "and should now be `embedding_bag(input, weight, ...)`.",
        stacklevel=3,
    )


def embedding_bag_tables(
    input: Tensor,
    weights: Sequence[Tensor],
    offsets: Tensor,
    feature_tables: Sequence[int] | None = None,
    mode: str | Sequence[str] = "mean",
    sparse: bool | Sequence[bool] = False,
    per_sample_weights: Tensor | None = None,
    padding_idx: int | Sequence[int | None] | None = None,
    max_norm: float | Sequence[float | None] | None = None,
    norm_type: float | Sequence[float] = 2.0,
) -> Tensor:
    """Bags of many features, from as many tables, in one call.

    What ``torch.cat`` over the features' :func:`embedding_bag` along dimension 1 gives, with one
    operator forwards and one backwards. An option is one value for all tables or a sequence with
    one for each.

    Args:
        input: All lookups, ``(N,)``: those of the first feature, then those of the second, and so
            on; uint8, int16, int32 or int64.
        weights: The tables, each ``(V, D)`` of its own size, width and dtype.
        offsets: ``(F * B + 1,)`` for F features of B bags: bag b of feature f is the lookups from
            ``offsets[f * B + b]`` to ``offsets[f * B + b + 1]``.
        feature_tables: The table that each feature reads; by default feature f reads table f.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: Make the gradient of a table a sparse COO tensor. Not with ``mode="max"``.
        per_sample_weights: One factor for each lookup, as in :func:`embedding_bag`.
        padding_idx: A row that is left out of bags and gets no gradient; negative values count from
            the end.
        max_norm: Rows that are looked up and whose norm is larger are first scaled down to it, in
            place, as in :func:`embedding_bag`. Every argument, indices included, is checked before
            a row is changed (not in ``torch.compile``).
        norm_type: The p of that p-norm.

    Returns:
        ``(B, sum of the widths of the features)`` in the dtype that the tables promote to; zeros
        for an empty bag.

    Raises:
        ValueError: A shape, a mode, ``feature_tables`` or the size of ``offsets`` does not fit.
        RuntimeError: A dtype does not fit, or an index or an offset is out of range.
        AssertionError: A ``padding_idx`` is not in ``[-V, V)`` of its table.
    """
    tensors = (input, *weights, offsets, per_sample_weights)
    if has_torch_function(tensors):
        return handle_torch_function(
            embedding_bag_tables,
            tensors,
            input,
            weights,
            offsets,
            feature_tables=feature_tables,
            mode=mode,
            sparse=sparse,
            per_sample_weights=per_sample_weights,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
        )
    count = len(weights)
    modes = [MODES.get(m, UNKNOWN_MODE) for m in for_tables(mode, count, "mode")]
    sparse_tables = [t for t, wanted in enumerate(for_tables(sparse, count, "sparse")) if wanted]
    arguments = (
        weights,
        input,
        offsets,
        feature_tables,
        modes,
        per_sample_weights,
        padding_rows(for_tables(padding_idx, count, "padding_idx"), weights),
        sparse_tables,
    )
    if max_norm is not None:
        if not is_dynamo_compiling():
            _check_embedding_bag_tables(*arguments)
        norms = zip(
            for_tables(max_norm, count, "max_norm"),
            for_tables(norm_type, count, "norm_type"),
            strict=True,
        )
        renorm_tables(input, weights, offsets, feature_tables, list(norms))
    entry: Callable[..., Tensor] = _embedding_bag_tables
    if is_dynamo_compiling():
        entry = sparse_tables_in_graph if sparse_tables else _graph_embedding_bag_tables
    return entry(*arguments)


def coalesce(input: Tensor) -> Tensor:
    """Joins the entries of each row of a sparse gradient: a faster ``input.coalesce()``.

    For the gradient of a table; any other tensor goes to PyTorch. Sums are accumulated in float32
    (float64 for float64) and rounded once. On CUDA it waits for the number of rows, as PyTorch's.

    Args:
        input: A sparse COO tensor ``(V, D)`` with row numbers and values ``(N, D)``, such as
            ``sparse=True`` makes.

    Returns:
        A coalesced tensor ``(V, D)``; ``input`` itself if it is coalesced.

    Raises:
        IndexError: A row number is not in ``[0, V)``. On CUDA a device-side assertion fails.
    """
    result: Tensor = _ops.coalesce(input)
    return result


def embedding_renorm_(
    weight: Tensor, input: Tensor, max_norm: float, norm_type: float = 2.0
) -> Tensor:
    """Scales rows down to ``max_norm``, in place: ``torch.embedding_renorm_``.

    A row is multiplied by ``max_norm / (norm + 1e-7)`` if its norm is larger than ``max_norm``.

    Args:
        weight: The table, ``(V, D)``, floating point. Not a leaf that requires grad, unless under
            ``torch.no_grad()``.
        input: Indices of any shape; uint8, int16, int32 or int64.
        max_norm: The largest norm that a row may keep.
        norm_type: The p of the p-norm.

    Returns:
        ``weight``.

    Raises:
        IndexError: An index is out of range; no row has been changed then.
        RuntimeError: A dtype or shape does not fit, or ``weight`` is a leaf that requires grad.
    """
    if has_torch_function_variadic(weight, input):
        return handle_torch_function(
            embedding_renorm_, (weight, input), weight, input, max_norm, norm_type=norm_type
        )
    entry = _embedding_renorm_
    if is_dynamo_compiling():
        prepare_compiler()
        entry = _graph_embedding_renorm_
    return entry(weight, input, max_norm, norm_type)


def renorm_for_lookup(weight: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> None:
    # detach() shares the version counter: whoever saved the table for backward still learns of the
    # change.
    with torch.no_grad():
        embedding_renorm_(weight.detach(), indices, max_norm, norm_type)
