"""``embedding_bag_tables`` by features: for ``max_norm``, and for sparse gradients in a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from . import functional

_ops = torch.ops.myemb
_graph_embedding_bag = _ops.embedding_bag.default
_graph_embedding_bag_tables = _ops.embedding_bag_tables.default


def renorm_tables(
    input: Tensor,
    weights: Sequence[Tensor],
    offsets: Tensor,
    feature_tables: Sequence[int] | None,
    norms: Sequence[tuple[float | None, float]],
) -> None:
    """Renorms the rows that a call looks up, feature by feature.

    The call is known to be good, in a graph its offsets at least. ``norms`` are ``max_norm`` and
    ``norm_type`` of each table.
    """
    tables = range(len(weights)) if feature_tables is None else feature_tables
    num_bags = (offsets.numel() - 1) // len(tables)
    if num_bags == 0:
        return
    borders = None
    if is_dynamo_compiling():
        offsets = _ops.checked_offsets.default(offsets, input.size(0), True)
    else:
        borders = offsets[::num_bags].tolist()
    for feature, table in enumerate(tables):
        max_norm, norm_type = norms[table]
        if max_norm is None:
            continue
        if borders is None:
            lookups = input.index_select(0, _places(input, offsets, [feature], len(tables)))
        else:
            lookups = input[borders[feature] : borders[feature + 1]]
        functional.renorm_for_lookup(weights[table], lookups, max_norm, norm_type)


def sparse_tables_in_graph(
    weights: Sequence[Tensor],
    input: Tensor,
    offsets: Tensor,
    feature_tables: Sequence[int] | None,
    modes: Sequence[int],
    per_sample_weights: Tensor | None,
    padding_rows: Sequence[int] | None,
    sparse_tables: Sequence[int],
) -> Any:
    """What the operator gives with these arguments, in a graph, with its gradients.

    How many entries they have is a matter of the offsets' values. So each table with a sparse
    gradient is a call of ``embedding_bag`` on the lookups of its features; the others are one call.
    """
    tables = list(range(len(weights)) if feature_tables is None else feature_tables)
    last = offsets.numel() - 1
    if offsets.dim() != 1 or last < 0 or last % len(tables) != 0:
        return _graph_embedding_bag_tables(  # which says what is wrong
            weights, input, offsets, feature_tables, modes, per_sample_weights, padding_rows, []
        )
    num_bags = last // len(tables)
    offsets = _ops.checked_offsets.default(offsets, input.size(0), True)
    counts = offsets.diff().view(len(tables), num_bags)
    features = range(len(tables))
    groups = [[f for f in features if tables[f] not in sparse_tables]]
    groups += [[f for f in features if tables[f] == table] for table in sparse_tables]
    parts: dict[int, Tensor] = {}
    for own in groups:
        if not own:
            continue
        places = _places(input, offsets, own, len(tables))
        lookups = input.index_select(0, places)
        factors = None if per_sample_weights is None else per_sample_weights.index_select(0, places)
        starts = torch.nn.functional.pad(counts[own].flatten().cumsum(0), (1, 0))
        read = [tables[f] for f in own]
        if read[0] in sparse_tables:
            padding = -1 if padding_rows is None else padding_rows[read[0]]
            options = (
                False,
                modes[read[0]],
                True,
                factors,
                True,
                padding if padding >= 0 else None,
            )
            bags = _graph_embedding_bag(weights[read[0]], lookups, starts, *options)
            outputs = bags.view(len(own), num_bags, bags.size(1)).unbind(0)
        else:
            bags = _graph_embedding_bag_tables(
                weights, lookups, starts, read, modes, factors, padding_rows, []
            )
            outputs = bags.split([weights[table].size(1) for table in read], 1)
        parts.update(zip(own, outputs, strict=True))
    return torch.cat([parts[f] for f in features], 1)


def _places(input: Tensor, offsets: Tensor, features: Sequence[int], num_features: int) -> Tensor:
    """Which lookups are those of some features, in a graph, where no number can be read.

    The offsets are checked and int64.
    """
    num_bags = (offsets.numel() - 1) // num_features
    last = num_bags * torch.arange(1, num_features + 1, device=offsets.device)
    ends = offsets.index_select(0, last)
    place = torch.arange(input.size(0), device=input.device)
    feature = torch.bucketize(place, ends, right=True)
    is_own = torch.tensor([f in features for f in range(num_features)], device=input.device)
    return is_own[feature].nonzero().squeeze(1)
