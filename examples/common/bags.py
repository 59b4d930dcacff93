"""Bags of table rows, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bags:
    """Bags of table rows, in the form that ``EmbeddingBag(include_last_offset=True)`` reads.

    Attributes:
        indices: int64 (N,), the rows of the table, bag after bag.
        offsets: int64 (B + 1,), bag b is ``indices[offsets[b]:offsets[b + 1]]``; it may be empty.
        weights: float32 (N,), per_sample_weights, or None.
    """

    indices: Tensor
    offsets: Tensor
    weights: Tensor | None = None

    def take(self, bags: Tensor) -> Bags:
        """Returns the bags with these numbers (int64, 1-D), in this order."""
        starts = self.offsets[bags]
        lengths = self.offsets[bags + 1] - starts
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
        lookups = shift + torch.arange(len(shift))
        weights = None if self.weights is None else self.weights.index_select(0, lookups)
        return Bags(self.indices.index_select(0, lookups), offsets, weights)
