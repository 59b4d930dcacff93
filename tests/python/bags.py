"""Running bags and their gradients, here and in float64 elsewhere."""

from __future__ import annotations

from typing import Any

import reference
import torch
import torch.nn.functional as F
from inputs import assert_near
from torch import Tensor

from myemb.functional import embedding_bag


def run(
    function: Any,
    lookups: Tensor,
    weight: Tensor,
    starts: Tensor | None,
    upstream: Tensor,
    per_sample_weights: Tensor | None = None,
    **options: Any,
) -> list[Tensor]:
    """The output, the gradient of the table and, with weights, the gradient of the weights."""
    leaves = [weight.detach().requires_grad_()]
    if per_sample_weights is not None:
        leaves.append(per_sample_weights.detach().requires_grad_())
        options["per_sample_weights"] = leaves[1]
    output = function(lookups, leaves[0], starts, **options)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream.to(output.dtype))]


def in_float64(
    function: Any,
    lookups: Tensor,
    weight: Tensor,
    starts: Tensor | None,
    upstream: Tensor,
    per_sample_weights: Tensor | None = None,
    **options: Any,
) -> list[Tensor]:
    factors = None if per_sample_weights is None else per_sample_weights.double()
    starts = None if starts is None else starts.long()
    return run(function, lookups.long(), weight.double(), starts, upstream, factors, **options)


def reference_bag(lookups: Tensor, weight: Tensor, starts: Tensor | None, **options: Any) -> Tensor:
    return reference.bag(weight, lookups, starts, **options)


def check(*arguments: Any, against: Any = F.embedding_bag, terms: int = 1, **options: Any) -> None:
    actual = run(embedding_bag, *arguments, **options)
    expected = in_float64(against, *arguments, **options)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_near(ours, theirs, terms)
