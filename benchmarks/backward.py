"""Gradients of lookups and bags."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from inputs import Inputs
from torch import Tensor
from work import Call, Groups, Library, Limits, Work, factors_of_accumulator


@dataclasses.dataclass(frozen=True)
class Backward(Work):
    """The gradient of the table: what autograd calls when the forward pass is done.

    Attributes:
        bag: The mode of the bags; ``None`` for lookups.
        weighted: With per-sample weights.
        layout: ``"dense"``, ``"sparse"`` or ``"coalesced"``.
    """

    bag: str | None = None
    weighted: bool = False
    layout: str = "dense"

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        leaf = inputs.weight.detach().requires_grad_()
        sparse = self.layout != "dense"
        if self.bag is None:
            out = library.functional.embedding(inputs.indices, leaf, sparse=sparse)
        else:
            out = library.functional.embedding_bag(
                inputs.indices,
                leaf,
                inputs.offsets[:-1].clone(),
                mode=self.bag,
                sparse=sparse,
                per_sample_weights=inputs.factors if self.weighted else None,
            )
        gradient, grad = inputs.gradient, torch.autograd.grad
        if self.layout == "coalesced":
            coalesce = library.coalesce
            return lambda: coalesce(grad(out, leaf, gradient, retain_graph=True)[0])
        return lambda: grad(out, leaf, gradient, retain_graph=True)[0]

    def moved(self, inputs: Inputs) -> int:
        """See Work."""
        shape, row = inputs.shape, inputs.shape.row_bytes
        read = (shape.bags or shape.lookups) * row + shape.lookups * 8
        if self.bag == "max":
            read += shape.bags * shape.width * 8
        if self.layout == "dense":
            return read + inputs.table_bytes
        written = shape.lookups if self.layout == "sparse" else len(inputs.distinct)
        return read + written * (row + 8)

    def sources(self, inputs: Inputs, groups: Groups) -> tuple[Tensor, Tensor | None]:
        """Returns the row of the gradient, and its factor, for each lookup in the order of rows."""
        order = groups.positions
        if self.bag is None:
            return order, None
        factors = torch.ones(inputs.shape.lookups, dtype=inputs.dtype)
        if self.weighted:
            factors = inputs.factors
        factors = factors_of_accumulator(factors)
        if self.bag == "mean":
            factors = factors / inputs.lengths[inputs.bag_of]
        plain = self.bag == "sum" and not self.weighted
        return inputs.bag_of[order], None if plain else factors[order]

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """See Work."""
        if self.bag == "max":
            return self._limits_of_max(inputs, loops)
        if self.layout == "sparse":
            return self._limits_of_expansion(inputs, loops)
        groups, gradient = Groups(inputs, inputs.indices, loops), inputs.gradient
        sources, factors = self.sources(inputs, groups)
        sink = loops.Sink.DENSE if self.layout == "dense" else loops.Sink.STORE
        rows = inputs.shape.rows if self.layout == "dense" else groups.count
        shape = (rows, inputs.shape.width)
        reused = torch.zeros(shape, dtype=gradient.dtype)

        def into(out: Tensor, tuning: Any) -> Tensor:
            where = groups.distinct, groups.borders
            loops.reduce_groups(gradient, sources, factors, *where, sink, out, tuning)
            return out

        def sorted_first(tuning: Any) -> Tensor:
            groups.sort(tuning)
            return into(reused, tuning)

        if self.layout == "coalesced":
            return {"lim+sort": sorted_first}
        return {
            "limit": lambda tuning: into(reused, tuning),
            "lim+huge": lambda tuning: into(loops.empty_huge(shape, gradient), tuning),
        }

    def _limits_of_expansion(self, inputs: Inputs, loops: Any) -> Limits:
        """A sparse gradient of a sum has the row of its bag for each lookup."""
        if self.bag != "sum" or self.weighted:  # a lookup's is a view: nothing moves
            return {}
        out = torch.zeros(inputs.shape.lookups, inputs.shape.width, dtype=inputs.dtype)

        def expand(tuning: Any) -> Tensor:
            loops.gather(inputs.gradient, inputs.bag_of, out, tuning)
            return out

        return {"limit": expand}

    def _limits_of_max(self, inputs: Inputs, loops: Any) -> Limits:
        if inputs.dtype != torch.float32:
            return {}
        shape = (inputs.shape.bags, inputs.shape.width)
        maxima, places = torch.zeros(shape), torch.zeros(shape, dtype=torch.int64)
        tuning = loops.Tuning(0, False, 1)
        where = inputs.indices, inputs.offsets
        loops.max_of_bags(inputs.weight, *where, -1, maxima, places, tuning)
        out = torch.zeros(inputs.shape.rows, inputs.shape.width)

        def into(out: Tensor, tuning: Any) -> Tensor:
            loops.scatter_max(inputs.gradient, *where, places, out, tuning)
            return out

        return {
            "limit": lambda tuning: into(out, tuning),
            "lim+huge": lambda tuning: into(loops.empty_huge(out.shape, out), tuning),
        }

    def has_fbgemm(self, inputs: Inputs) -> bool:
        """See Work."""
        pooled = self.bag == "sum" and not self.weighted
        return pooled and self.layout == "dense" and inputs.shape.dtype == "fp32"

    def result(self, returned: Any, inputs: Inputs) -> Tensor:
        """Expanded rows are compared in input order: the limit has no coordinates."""
        assert isinstance(returned, Tensor)
        if self.layout == "sparse" and returned.is_sparse:
            return returned._values()
        return returned


@dataclasses.dataclass(frozen=True)
class FactorsBackward(Work):
    """The gradient of per-sample weights."""

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        leaf = inputs.factors.requires_grad_()
        out = library.functional.embedding_bag(
            inputs.indices,
            inputs.weight,
            inputs.offsets[:-1].clone(),
            mode="sum",
            per_sample_weights=leaf,
        )
        gradient = inputs.gradient
        return lambda: torch.autograd.grad(out, leaf, gradient, retain_graph=True)[0]

    def moved(self, inputs: Inputs) -> int:
        """See Work."""
        shape, row = inputs.shape, inputs.shape.row_bytes
        return shape.lookups * (row + 8 + inputs.dtype.itemsize) + shape.bags * row
