"""Nested tensors as lookups and as bags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def nested_lookup(lookup: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """A nested tensor of the rows that ``lookup`` finds, with the structure of ``input``."""
    if input.layout is not torch.jagged:
        return torch.nested.as_nested_tensor([lookup(component) for component in input.unbind()])
    jagged: Any = input  # the stubs of Tensor know nothing of what follows
    return torch.nested.nested_tensor_from_jagged(
        lookup(jagged.values()),
        offsets=jagged.offsets(),
        lengths=jagged.lengths(),
        jagged_dim=jagged._ragged_idx,
    )


def unpack_nested_bags(
    input: Tensor, per_sample_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The lookups, offsets (with the last one) and weights of a jagged tensor."""
    if per_sample_weights is not None:
        if input.size() != per_sample_weights.size():
            raise ValueError(
                f"embedding_bag: If per_sample_weights ({per_sample_weights.shape}) is not None, "
                f"then it must have the same shape as the input ({input.shape})"
            )
        if not per_sample_weights.is_nested:
            raise ValueError(
                "If input is nested, then per_sample_weights must be nested if specified"
            )
        per_sample_weights = per_sample_weights.values().reshape(-1)
    if input.dim() != 2:
        raise ValueError(
            f"input has to be 1D or 2D Tensor, but got Tensor of dimension {input.dim()}"
        )
    jagged: Any = input  # the stubs of Tensor know nothing of offsets()
    return jagged.values().reshape(-1), jagged.offsets(), per_sample_weights
