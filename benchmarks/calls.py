"""Calls on a handful of indices, where the way to the kernel is the work."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from inputs import Inputs
from torch import Tensor
from work import Call, Library, Limits, Work


@dataclasses.dataclass(frozen=True)
class SmallCall(Work):
    """One call.

    Attributes:
        way: ``"functional"``, ``"module"``, ``"grad"`` (the table wants a gradient), ``"train"``
            (with backward), ``"bag"``, ``"bag module"`` or ``"bag grad"`` (of means).
    """

    way: str = "functional"

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        weight, indices, functional = inputs.weight, inputs.indices, library.functional
        offsets, gradient = inputs.offsets[:-1].clone(), inputs.gradient
        trained = weight.detach().requires_grad_()
        if self.way == "functional":
            return lambda: functional.embedding(indices, weight)
        if self.way == "grad":
            return lambda: functional.embedding(indices, trained)
        if self.way == "bag":
            return lambda: functional.embedding_bag(indices, weight, offsets, mode="sum")
        if self.way == "bag grad":
            return lambda: functional.embedding_bag(indices, trained, offsets)
        if self.way == "module":
            module = library.nn.Embedding.from_pretrained(weight)
            return lambda: module(indices)
        if self.way == "bag module":
            bags = library.nn.EmbeddingBag.from_pretrained(weight, mode="sum")
            return lambda: bags(indices, offsets)
        return lambda: torch.autograd.grad(
            functional.embedding(indices, trained), trained, gradient
        )[0]

    def moved(self, inputs: Inputs) -> int:
        """See Work."""
        return inputs.shape.lookups * (2 * inputs.shape.row_bytes + 8)

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """Calls of operators that do nothing but allocate and copy: the dispatcher's own price.

        ``limit`` calls them by ``torch.ops``, which is how a C++ operator is called from Python;
        ``lim+typed`` by a binding of its own, which is the least that is possible.
        """
        operators = torch.ops.myemb_limit
        lookup, bag = operators.lookup.default, operators.bag.default
        trained_lookup = operators.trained_lookup.default
        trained_bag = operators.trained_bag.default
        weight, indices, offsets = inputs.weight, inputs.indices, inputs.offsets
        trained, gradient = weight.detach().requires_grad_(), inputs.gradient

        def train(_: Any) -> Tensor:
            return torch.autograd.grad(trained_lookup(trained, indices), trained, gradient)[0]

        if self.way == "train":
            return {"limit": train}
        if self.way == "grad":
            return {
                "limit": lambda _: trained_lookup(trained, indices),
                "lim+typed": lambda _: loops.call_trained_lookup(trained, indices),
            }
        if self.way == "bag grad":
            return {
                "limit": lambda _: trained_bag(trained, indices, offsets),
                "lim+typed": lambda _: loops.call_trained_bag(trained, indices, offsets),
            }
        if self.way.startswith("bag"):
            return {
                "limit": lambda _: bag(weight, indices, offsets),
                "lim+typed": lambda _: loops.call_bag(weight, indices, offsets),
            }
        return {
            "limit": lambda _: lookup(weight, indices),
            "lim+typed": lambda _: loops.call_lookup(weight, indices),
        }

    def has_fbgemm(self, inputs: Inputs) -> bool:
        """See Work."""
        return self.way in ("functional", "bag")
