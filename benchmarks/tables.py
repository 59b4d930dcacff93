"""Bags of many tables, side by side: forward, and training steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from forward import Bag
from inputs import Inputs
from steps import Step, changes, optimizer_for
from torch import Tensor
from work import Call, Library, Limits, Work


def joined(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Returns all lookups, table by table, and where their bags begin and the last one ends."""
    indices = torch.cat([table.indices for table in inputs.tables])
    lengths = torch.cat([table.lengths for table in inputs.tables])
    return indices, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def gradient_of(inputs: Inputs) -> Tensor:
    """Returns the gradient of the bags of all tables, side by side."""
    return torch.cat([table.gradient for table in inputs.tables], 1)


def bags_of(weights: list[Tensor], inputs: Inputs, library: Library) -> Call:
    """Returns the call on these tables: one where the library can, otherwise one for each."""
    functional = library.functional
    options = {"mode": "sum", "sparse": True}  # gradients, where they are stored
    if hasattr(functional, "embedding_bag_tables"):
        in_one_call, (indices, offsets) = functional.embedding_bag_tables, joined(inputs)
        return lambda: in_one_call(indices, weights, offsets, **options)
    embedding_bag = functional.embedding_bag
    calls = [
        (table.indices, weight, table.offsets[:-1].clone())
        for table, weight in zip(inputs.tables, weights, strict=True)
    ]
    return lambda: torch.cat([embedding_bag(*call, **options) for call in calls], 1)


@dataclasses.dataclass(frozen=True)
class Tables(Work):
    """The sums of the bags of each table, side by side, going forward."""

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        return bags_of([table.weight for table in inputs.tables], inputs, library)

    def moved(self, inputs: Inputs) -> int:
        """See Work."""
        return sum(Bag().moved(table) for table in inputs.tables)

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """One table after another, whose results do not come side by side."""
        each = [Bag().limits(table, loops)["limit"] for table in inputs.tables]
        return {"limit": lambda tuning: [bags(tuning) for bags in each]}

    def has_fbgemm(self, inputs: Inputs) -> bool:
        """See Work."""
        return True

    def result(self, returned: Any, inputs: Inputs) -> Tensor:
        """See Work."""
        return torch.cat(returned, 1) if isinstance(returned, list) else returned


@dataclasses.dataclass(frozen=True)
class TablesStep(Work):
    """Forward, backward and the optimizer of all tables.

    Attributes:
        optimizer: A key of ``steps.RULES``.
    """

    optimizer: str = "sgd"

    checked_call = Step.checked_call

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        weights = [table.weight.clone().requires_grad_() for table in inputs.tables]
        optimizer = optimizer_for(self.optimizer, weights, library, sparse=True)
        forward, gradient = bags_of(weights, inputs, library), gradient_of(inputs)

        def step() -> list[Tensor]:
            optimizer.zero_grad()
            forward().backward(gradient)
            optimizer.step()
            return weights

        return step

    def moved(self, inputs: Inputs) -> int:
        """See Work."""
        return sum(self._of_one.moved(table) for table in inputs.tables)

    def formula(self, inputs: Inputs) -> Tensor | None:
        """See Work."""
        each = [self._of_one.formula(table) for table in inputs.tables]
        found = [part for part in each if part is not None]
        return torch.cat(found) if found else None

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """One table after another."""
        each = [self._of_one.limits(table, loops)["lim+sort"] for table in inputs.tables]
        return {"lim+sort": lambda tuning: [step(tuning) for step in each]}

    def has_fbgemm(self, inputs: Inputs) -> bool:
        """See Work."""
        return self.optimizer != "adam"

    def result(self, returned: Any, inputs: Inputs) -> Tensor:
        """See Work."""
        pairs = zip(returned, inputs.tables, strict=True)
        return torch.cat([changes(weight, table) for weight, table in pairs])

    @property
    def _of_one(self) -> Step:
        return Step(self.optimizer, bag=True)
