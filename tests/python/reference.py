"""What the operators mean, written for reading: slow, differentiable as often as wanted.

Nothing here comes from the library. Used where PyTorch cannot serve as the reference: weights with
mean and max, frequency scaling with sparse gradients, second derivatives of bags.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def frequencies(indices: Tensor, num_rows: int) -> Tensor:
    """How often each lookup's row is looked up in all of ``indices``."""
    flat = indices.long().flatten()
    counts = torch.zeros(num_rows, dtype=torch.float64, device=flat.device)
    counts.index_add_(0, flat, torch.ones_like(flat, dtype=torch.float64))
    return counts[flat].reshape(indices.shape)


def scale_gradient(value: Tensor, scale: Tensor) -> Tensor:
    """``value`` with its gradient multiplied by ``scale``."""
    constant = value.detach()
    return constant + (value - constant) * scale


def lookup(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
) -> Tensor:
    """``(*, D)`` rows, by a product with one-hot vectors: no gather, no scatter."""
    flat = indices.long().flatten()
    one_hot = weight.new_zeros(flat.numel(), weight.size(0))
    one_hot[torch.arange(flat.numel(), device=flat.device), flat] = 1
    rows = one_hot @ weight
    if scale_grad_by_freq:
        rows = scale_gradient(rows, 1 / frequencies(flat, weight.size(0)).unsqueeze(1))
    if padding_idx is not None:
        padding = flat == padding_idx % weight.size(0)
        rows = torch.where(padding.unsqueeze(1), rows.detach(), rows)
    return rows.reshape(*indices.shape, weight.size(1))


def bags_of(indices: Tensor, offsets: Tensor | None, include_last_offset: bool) -> list[range]:
    """The positions of each bag in the flattened indices."""
    if offsets is None:
        rows, length = indices.shape
        return [range(row * length, (row + 1) * length) for row in range(rows)]
    ends = offsets.tolist()
    if not include_last_offset:
        ends.append(indices.numel())
    return [range(*pair) for pair in itertools.pairwise(ends)]


def reduce_bag(rows: Tensor, mode: str) -> Tensor:
    """``(n, D)`` to ``(D,)``; an empty bag gives zeros."""
    if rows.size(0) == 0:
        return rows.sum(0)
    if mode == "max":
        best = torch.zeros(rows.size(1), dtype=torch.long, device=rows.device)
        for row in range(1, rows.size(0)):  # the first occurrence wins; a later NaN does not
            current = rows.gather(0, best.unsqueeze(0)).squeeze(0)
            best = torch.where(rows[row] > current, row, best)
        return rows.gather(0, best.unsqueeze(0)).squeeze(0)
    total = rows.sum(0)
    return total / rows.size(0) if mode == "mean" else total


def bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor | None = None,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    scale_grad_by_freq: bool = False,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``(B, D)``: each bag reduced by itself, in the dtype of ``weight``."""
    flat = indices.long().flatten()
    factors = None if per_sample_weights is None else per_sample_weights.flatten()
    looked_up = weight[flat]
    if scale_grad_by_freq:
        looked_up = scale_gradient(looked_up, 1 / frequencies(flat, weight.size(0)).unsqueeze(1))
    padding = None if padding_idx is None else padding_idx % weight.size(0)
    output = []
    for positions in bags_of(indices, offsets, include_last_offset):
        kept = [p for p in positions if int(flat[p]) != padding]
        rows = looked_up[kept]
        if factors is not None:
            rows = rows * factors[kept].unsqueeze(1)
        output.append(reduce_bag(rows, mode))
    return torch.stack(output) if output else weight[:0]


def renorm(weight: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> Tensor:
    """A renormalised copy of ``weight``."""
    table = weight.detach().clone()
    for row in set(indices.flatten().tolist()):
        values = [abs(value) for value in table[row].double().tolist()]
        norm = p_norm(values, norm_type)
        if norm > max_norm:
            table[row] = (table[row].double() * (max_norm / (norm + 1e-7))).to(table.dtype)
    return table


def p_norm(values: list[float], p: float) -> float:
    """The p-norm of absolute values, for every p that is a norm or close to one."""
    if p == 0:
        return float(sum(value != 0 for value in values))
    if p == float("inf"):
        return max(values, default=0.0)
    return float(sum(value**p for value in values)) ** (1 / p)


def row_wise_adagrad(
    weight: Tensor, sums: Tensor, gradient: Tensor, lr: float, eps: float, weight_decay: float
) -> None:
    """A step in place: every row of ``weight`` has one sum, of the means of its squares."""
    gradient = gradient + weight_decay * weight
    if weight.size(1):
        sums += gradient.square().mean(1)
    weight -= lr * gradient / (sums.sqrt() + eps).unsqueeze(1)


def vmap_loop(function: Callable[..., Any], in_dims: Sequence[int | None], *arguments: Any) -> Any:
    """What ``torch.vmap`` means: the results of the elements, stacked."""
    pairs = list(zip(arguments, in_dims, strict=True))
    (size,) = {argument.size(dim) for argument, dim in pairs if dim is not None}
    results = []
    for element in range(size):
        own = [each if dim is None else each.select(dim, element) for each, dim in pairs]
        results.append(function(*own))
    return tree_map(lambda *each: torch.stack(each), *results)
