"""Batches of several features as one: their lookups one after the other, and where bags begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._nested import flat_bags

__all__ = ["Batch", "join_features", "take_features"]


class Batch(NamedTuple):
    """What ``functional.embedding_bag_tables`` takes of a batch."""

    indices: Tensor
    offsets: Tensor  # (F * B + 1,)
    per_sample_weights: Tensor | None


class _Feature(NamedTuple):
    indices: Tensor  # (N,)
    starts: Tensor | int  # (B,), or the length of each bag
    num_bags: int


def join_features(
    names: Sequence[str],
    lookups: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None,
    include_last_offset: Sequence[bool],
) -> Batch:
    """The batch of a dict from feature to lookups."""
    if missing := [name for name in names if name not in lookups]:
        raise ValueError(f"the batch has no lookups of {', '.join(missing)}")
    if unknown := set(lookups) - set(names):
        raise ValueError(f"there are no features {', '.join(sorted(unknown))}")
    features = [
        _feature(name, lookups[name], last)
        for name, last in zip(names, include_last_offset, strict=True)
    ]
    # Not a set of them: hashing a size would make torch.compile take it for a constant.
    if any(feature.num_bags != features[0].num_bags for feature in features):
        sizes = {name: feature.num_bags for name, feature in zip(names, features, strict=True)}
        raise ValueError(
            f"every feature has to have the same number of bags, but they have {sizes}"
        )
    indices = torch.cat([feature.indices for feature in features])
    return Batch(indices, _joined_offsets(features), _joined_weights(names, features, weights))


def take_features(names: Sequence[str], keyed: Any) -> Batch:
    """The batch of a ``KeyedJaggedTensor``, or of an object like it."""
    for method in ("keys", "values"):
        if not hasattr(keyed, method):
            raise TypeError(
                "expected a Tensor, a dict from feature to lookups or a KeyedJaggedTensor, "
                f"but got {type(keyed).__name__}"
            )
    keys, values, offsets = list(keyed.keys()), keyed.values(), _offsets_of(keyed)
    weights = _weights_of(keyed)
    if keys == list(names):
        return Batch(values, offsets, weights)
    if missing := [name for name in names if name not in keys]:
        raise ValueError(f"the batch has no lookups of {', '.join(missing)}")
    num_bags = (offsets.numel() - 1) // len(keys)
    borders = offsets[:: max(num_bags, 1)].tolist() if num_bags else [0] * (len(keys) + 1)
    places = [keys.index(name) for name in names]
    pieces = [slice(borders[place], borders[place + 1]) for place in places]
    lengths = offsets.diff().view(len(keys), num_bags)[places].flatten()
    return Batch(
        torch.cat([values[piece] for piece in pieces]),
        _from_zero(lengths.cumsum(0)),
        None if weights is None else torch.cat([weights[piece] for piece in pieces]),
    )


def _feature(name: str, lookups: Any, include_last_offset: bool) -> _Feature:
    if isinstance(lookups, Tensor) and lookups.is_nested:
        try:
            indices, offsets = flat_bags(lookups)
        except ValueError as error:
            raise ValueError(f"feature {name}: {error}") from error
        return _Feature(indices, offsets[:-1], offsets.numel() - 1)
    if isinstance(lookups, Tensor):
        if lookups.dim() != 2:
            raise ValueError(
                f"feature {name}: lookups without offsets have to be a 2D Tensor, "
                f"but got Tensor of dimension {lookups.dim()}"
            )
        return _Feature(lookups.reshape(-1), lookups.size(1), lookups.size(0))
    indices, starts = lookups
    if indices.dim() != 1 or starts.dim() != 1:
        raise ValueError(f"feature {name}: lookups and offsets have to be 1D Tensors")
    if include_last_offset:
        if starts.numel() == 0 or int(starts[-1]) != indices.numel():
            raise ValueError(
                f"feature {name}: include_last_offset: offsets[-1] has to be input's length "
                f"{indices.numel()}"
            )
        starts = starts[:-1]
    return _Feature(indices, starts, starts.numel())


def _joined_offsets(features: Sequence[_Feature]) -> Tensor:
    device = features[0].indices.device
    num_bags = features[0].num_bags
    ends = torch.tensor([0] + [feature.indices.numel() for feature in features]).cumsum(0)
    numbers = torch.arange(num_bags, device=device)
    # Bags of one, the commonest kind, begin at the numbers themselves.
    starts = [
        feature.starts
        if isinstance(feature.starts, Tensor)
        else numbers
        if feature.starts == 1
        else numbers * feature.starts
        for feature in features
    ]
    own = torch.cat(starts).view(len(features), num_bags)
    ends = ends.to(device)
    # The end of a feature is the beginning of the next one's first bag, so nobody else would see
    # that this one begins late.
    torch._assert_async(
        own[:, :1].eq(0).all(),
        "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from "
        "position 0, in every feature",
    )
    return torch.cat([(own + ends[:-1, None]).flatten(), ends[-1:]])


def _joined_weights(
    names: Sequence[str], features: Sequence[_Feature], weights: Mapping[str, Tensor] | None
) -> Tensor | None:
    if weights is None:
        return None
    if unknown := set(weights) - set(names):
        raise ValueError(f"there are no features {', '.join(sorted(unknown))}")
    if not weights:
        return None
    flat = {name: _flat(given) for name, given in weights.items()}
    some = next(iter(flat.values()))
    parts = []
    for name, feature in zip(names, features, strict=True):
        part = flat.get(name)
        if part is None:
            part = some.new_ones(feature.indices.numel())
        if part.numel() != feature.indices.numel():
            raise ValueError(
                f"feature {name}: per_sample_weights has to have the shape of its lookups, "
                f"but there are {part.numel()} for {feature.indices.numel()}"
            )
        parts.append(part)
    return torch.cat(parts)


def _flat(weights: Tensor) -> Tensor:
    return flat_bags(weights)[0] if weights.is_nested else weights.reshape(-1)


def _offsets_of(keyed: Any) -> Tensor:
    if hasattr(keyed, "offsets"):
        offsets: Tensor = keyed.offsets()
        return offsets
    return _from_zero(keyed.lengths().cumsum(0))


def _weights_of(keyed: Any) -> Tensor | None:
    get = getattr(keyed, "weights_or_none", None) or getattr(keyed, "weights", None)
    return None if get is None else get()


def _from_zero(ends: Tensor) -> Tensor:
    return torch.cat([ends.new_zeros(1), ends])


def for_tables(option: Any, count: int, name: str) -> Sequence[Any]:
    """The value of an option for each table."""
    if isinstance(option, (list, tuple)):
        if len(option) != count:
            raise ValueError(f"{name} has {len(option)} values for {count} tables")
        return option
    return [option] * count
