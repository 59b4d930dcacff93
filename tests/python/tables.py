"""Calls of embedding_bag_tables and the same feature by feature, for test_tables.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from inputs import whole_numbers
from torch import Tensor

from myemb.functional import embedding_bag, embedding_bag_tables


def torch_bag(lookups: Tensor, weight: Tensor, starts: Tensor, **options: Any) -> Tensor:
    return F.embedding_bag(lookups.long(), weight, starts.long(), **options)


@dataclasses.dataclass
class Call:
    """The arguments of one call."""

    weights: list[Tensor]
    lookups: Tensor
    starts: Tensor
    features: list[int]
    modes: list[str]
    factors: Tensor | None = None
    padding: list[int | None] | None = None
    sparse: list[bool] | None = None

    @property
    def num_bags(self) -> int:
        return (self.starts.numel() - 1) // len(self.features)

    @property
    def widths(self) -> list[int]:
        return [self.weights[table].size(1) for table in self.features]

    def together(self, weights: Sequence[Tensor], factors: Tensor | None) -> Tensor:
        return embedding_bag_tables(
            self.lookups,
            weights,
            self.starts,
            feature_tables=self.features,
            mode=self.modes,
            sparse=self.sparse or False,
            per_sample_weights=factors,
            padding_idx=self.padding,
        )

    def apart(
        self,
        weights: Sequence[Tensor],
        factors: Tensor | None,
        bag: Callable[..., Tensor] = embedding_bag,
    ) -> Tensor:
        """One call of ``bag`` for each feature, and cat."""
        outputs = []
        for feature, table in enumerate(self.features):
            first = feature * self.num_bags
            starts = self.starts.long()[first : first + self.num_bags + 1]
            own = slice(int(starts[0]), int(starts[-1]))
            options: dict[str, Any] = (
                {} if factors is None else {"per_sample_weights": factors[own]}
            )
            if self.padding is not None:
                options["padding_idx"] = self.padding[table]
            outputs.append(
                bag(
                    self.lookups[own],
                    weights[table],
                    starts - starts[0],
                    mode=self.modes[table],
                    include_last_offset=True,
                    **options,
                )
            )
        return torch.cat(outputs, 1)

    def run(self, function: Callable[..., Tensor], upstream: Tensor, **options: Any) -> list[Any]:
        """The output, the gradients of the tables and, with factors, that of the factors."""
        weights = [weight.detach().requires_grad_() for weight in self.weights]
        factors = None if self.factors is None else self.factors.detach().requires_grad_()
        leaves = weights if factors is None else [*weights, factors]
        output = function(weights, factors, **options)
        grads = torch.autograd.grad(output, leaves, upstream.to(output.dtype), allow_unused=True)
        return [output.detach(), *(g if g is None else g.to_dense() for g in grads)]

    def double(self) -> Call:
        return dataclasses.replace(
            self,
            weights=[weight.double() for weight in self.weights],
            factors=None if self.factors is None else self.factors.double(),
        )

    def upstream(self, whole: bool = False) -> Tensor:
        shape = (self.num_bags, sum(self.widths))
        return 4 * whole_numbers(*shape) if whole else torch.randn(shape)


def make_call(
    widths: Sequence[int] = (1, 3, 7, 33, 130, 514),
    modes: Sequence[str] = ("sum", "mean", "max"),
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    features: Sequence[int] | None = None,
    num_bags: int = 20,
    longest: int = 8,
    whole: bool = False,
    factors: torch.dtype | None = None,
    padding: bool = False,
    index_dtype: torch.dtype = torch.int64,
) -> Call:
    """Tables of 5, 12, 19 ... rows; bags of 0 to ``longest`` lookups, or whole ones of 4."""
    tables = range(len(widths))
    features = list(tables if features is None else features)
    rows = [5 + 7 * table for table in tables]
    counts = torch.randint(longest + 1, (len(features), num_bags))
    if whole:  # a mean of four is exact
        counts = 4 * (counts % 2)
    parts = [
        torch.randint(rows[table], (int(counts[feature].sum()),))
        for feature, table in enumerate(features)
    ]
    lookups = torch.cat(parts).to(index_dtype)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.flatten().cumsum(0)])

    def values(*shape: int) -> Tensor:
        return whole_numbers(*shape) if whole else torch.randn(shape)

    return Call(
        [values(rows[t], widths[t]).to(dtypes[t % len(dtypes)]) for t in tables],
        lookups,
        starts.to(torch.int32 if index_dtype == torch.int32 else torch.int64),
        features,
        [modes[t % len(modes)] for t in tables],
        None if factors is None else values(lookups.numel()).to(factors),
        [t % rows[t] if t % 2 else None for t in tables] if padding else None,
    )
