"""Nested tensors as lookups and as bags.

A jagged tensor with lengths has holes between its components. What lies in them is no lookup: it is
left out before it is looked up, so that it needs not be an index of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["flat_bags", "nested_lookup", "refuse_nested_weights", "unpack_nested_bags"]


def nested_lookup(lookup: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """A nested tensor of the rows that ``lookup`` finds, with the structure of ``input``."""
    if input.layout is not torch.jagged:
        # One lookup of all components: a frequency is one in all of them.
        flat, components = _flattened(input)
        rows = torch.split(lookup(flat), [component.numel() for component in components])
        return torch.nested.as_nested_tensor(
            [
                part.view(*component.shape, part.size(-1))
                for part, component in zip(rows, components, strict=True)
            ]
        )
    values, offsets = _without_holes(input)
    jagged: Any = input  # the stubs of Tensor know nothing of what follows
    # The lengths stay, although there are no holes any more: the ragged size is a name of theirs.
    return torch.nested.nested_tensor_from_jagged(
        lookup(values),
        offsets=offsets,
        lengths=jagged.lengths(),
        jagged_dim=jagged._ragged_idx,
        min_seqlen=jagged._maybe_min_seqlen,
        max_seqlen=jagged._maybe_max_seqlen,
    )


def flat_bags(nested: Tensor) -> tuple[Tensor, Tensor]:
    """The values ``(N,)`` of a 2-D nested tensor, and the offsets ``(B + 1,)`` of its components.

    Raises:
        ValueError: ``nested`` is not 2-D.
    """
    if nested.dim() != 2:
        raise ValueError(
            f"input has to be 1D or 2D Tensor, but got Tensor of dimension {nested.dim()}"
        )
    if nested.layout is torch.jagged:
        return _without_holes(nested)
    values, components = _flattened(nested)
    lengths = torch.tensor([0, *(component.numel() for component in components)])
    return values, lengths.cumsum(0).to(values.device)


def unpack_nested_bags(
    input: Tensor, per_sample_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The lookups, offsets (with the last one) and weights of a nested tensor of bags.

    Raises:
        ValueError: ``input`` is not 2-D, or ``per_sample_weights`` are not nested like it.
    """
    if per_sample_weights is None:
        return *flat_bags(input), None
    if not per_sample_weights.is_nested or not _are_alike(input, per_sample_weights):
        raise _wrong_shape(input, per_sample_weights)
    return *flat_bags(input), flat_bags(per_sample_weights)[0]


def refuse_nested_weights(input: Tensor, per_sample_weights: Tensor) -> None:
    """Raises ValueError for nested weights of an ``input`` that is not nested."""
    if per_sample_weights.is_nested:
        raise _wrong_shape(input, per_sample_weights)


def _without_holes(jagged: Any) -> tuple[Tensor, Tensor]:
    """The values of a jagged tensor with nothing between its components, and their offsets."""
    values, starts, lengths = jagged.values(), jagged.offsets(), jagged.lengths()
    if lengths is None:
        return values, starts
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    shifts = torch.repeat_interleave(starts[:-1] - offsets[:-1], lengths)
    places = shifts + torch.arange(shifts.size(0), device=shifts.device)
    return values.index_select(jagged._ragged_idx - 1, places), offsets


def _flattened(strided: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
    """All values of a nested tensor, ``(N,)``, and its components."""
    components = strided.unbind()
    return torch.cat([component.reshape(-1) for component in components]), components


def _are_alike(first: Tensor, second: Tensor) -> bool:
    """Whether two nested tensors have components of the same shapes."""
    if first.layout is not second.layout:
        return False
    if first.layout is torch.jagged:
        return first.size() == second.size()
    return [part.shape for part in first.unbind()] == [part.shape for part in second.unbind()]


def _wrong_shape(input: Tensor, per_sample_weights: Tensor) -> ValueError:
    return ValueError(
        f"embedding_bag: If per_sample_weights ({_shape(per_sample_weights)}) is not None, "
        f"then it must have the same shape as the input ({_shape(input)})"
    )


def _shape(tensor: Tensor) -> object:
    if tensor.is_nested and tensor.layout is not torch.jagged:
        return [part.shape for part in tensor.unbind()]
    return tensor.shape
