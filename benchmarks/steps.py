"""Whole training steps: forward, backward and the optimizer."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from backward import Backward
from inputs import Inputs
from torch import Tensor
from work import Call, Groups, Library, Limits, Work

RATE = 0.01  # of learning
EPSILON = 1e-15  # so small that it does not matter where an optimizer adds it
BETAS = (0.9, 0.999)  # of Adam


@dataclasses.dataclass(frozen=True)
class Rule:
    """An optimizer.

    Attributes:
        name: Of the class of ``myemb.optim``.
        sparse, dense: The classes of ``torch.optim`` for such gradients. PyTorch has no row-wise
            Adagrad: its Adagrad stands in, whose work is about the same.
        states: Tables as large as the weight.
        row_states: Numbers for each row.
    """

    name: str
    sparse: str
    dense: str
    states: int = 0
    row_states: int = 0


RULES = {
    "sgd": Rule("SGD", "SGD", "SGD"),
    "adagrad": Rule("Adagrad", "Adagrad", "Adagrad", states=1),
    "row_wise_adagrad": Rule("RowWiseAdagrad", "Adagrad", "Adagrad", row_states=1),
    "adam": Rule("Adam", "SparseAdam", "Adam", states=2),
}


def optimizer_for(rule: str, tables: list[Tensor], library: Library, sparse: bool) -> Any:
    """Returns the library's optimizer of tables, fused into backward where the library can."""
    names = RULES[rule]
    options: dict[str, Any] = {"lr": RATE} if rule == "sgd" else {"lr": RATE, "eps": EPSILON}
    if library.fuse is not None:
        optimizer = getattr(library.optim, names.name)(tables, **options)
        library.fuse(optimizer, tables)
        return optimizer
    if sparse:
        return getattr(library.optim, names.sparse)(tables, **options)
    return getattr(library.optim, names.dense)(tables, fused=True, **options)  # its fastest


def changes(weight: Tensor, inputs: Inputs) -> Tensor:
    """Returns what has become of the table of inputs, in learning rates.

    First the largest change of a row that is not looked up, then the rows that are.
    """
    change = (weight.detach() - inputs.weight) / RATE
    looked_up = change[inputs.distinct]
    change[inputs.distinct] = 0
    return torch.cat([change.abs().max().view(1), looked_up.flatten()])


def changes_by_row_wise_adagrad(inputs: Inputs, bag: bool, count: int) -> Tensor:
    """Returns the same after so many steps of its formula in float64."""
    rows, place = inputs.indices.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    gradient = inputs.gradient.double()
    sums = gradient.new_zeros(len(rows), inputs.shape.width)
    sums.index_add_(0, place, gradient[inputs.bag_of] if bag else gradient)
    squares = sums.square().mean(1, keepdim=True)
    factor = torch.zeros_like(squares)
    for step in range(1, count + 1):
        factor += 1 / ((step * squares).sqrt() + EPSILON)
    return torch.cat([factor.new_zeros(1), (-sums * factor).flatten()])


@dataclasses.dataclass(frozen=True)
class Step(Work):
    """Forward, backward and the optimizer.

    Attributes:
        optimizer: A key of ``RULES``.
        bag: Bags of sums instead of lookups.
        sparse: Where gradients are stored, they are sparse.
        beside_dense: PyTorch with dense gradients takes part, too.
    """

    optimizer: str = "sgd"
    bag: bool = False
    sparse: bool = True
    beside_dense: bool = False

    checked_call = 3  # optimizers with a state show it after the first

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        modules = library.nn
        options: dict[str, Any] = {"freeze": False, "sparse": self.sparse}
        if self.bag:
            module = modules.EmbeddingBag.from_pretrained(
                inputs.weight.clone(), mode="sum", **options
            )
            arguments: tuple[Tensor, ...] = (inputs.indices, inputs.offsets[:-1].clone())
        else:
            module = modules.Embedding.from_pretrained(inputs.weight.clone(), **options)
            arguments = (inputs.indices,)
        optimizer = optimizer_for(self.optimizer, [module.weight], library, self.sparse)

        def step() -> Tensor:
            optimizer.zero_grad()
            module(*arguments).backward(inputs.gradient)
            optimizer.step()
            weight: Tensor = module.weight
            return weight

        return step

    def rivals(self) -> dict[str, Work]:
        """See Work."""
        dense = dataclasses.replace(self, sparse=False, beside_dense=False)
        return {"torch dense": dense} if self.beside_dense else {}

    def moved(self, inputs: Inputs) -> int:
        """Rows are read going forward, and read and written with their state for the update."""
        shape, row, rule = inputs.shape, inputs.shape.row_bytes, RULES[self.optimizer]
        through = shape.lookups * (row + 8) + 2 * (shape.bags or shape.lookups) * row
        updated = row * (1 + rule.states) + rule.row_states * inputs.dtype.itemsize
        return through + 2 * len(inputs.distinct) * updated

    def formula(self, inputs: Inputs) -> Tensor | None:
        """See Work."""
        if self.optimizer != "row_wise_adagrad":
            return None
        return changes_by_row_wise_adagrad(inputs, self.bag, self.checked_call)

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """See Work."""
        rule, weight = RULES[self.optimizer], inputs.weight.clone()
        groups = Groups(inputs, inputs.indices, loops)
        states = [torch.zeros_like(weight) for _ in range(rule.states)]
        states += [torch.zeros(inputs.shape.rows) for _ in range(rule.row_states)]
        sink = getattr(loops.Sink, self.optimizer.upper())
        sources, _ = Backward(bag="sum" if self.bag else None).sources(inputs, groups)
        gradient, out = inputs.gradient, torch.zeros_like(inputs.gradient)
        steps = itertools.count(1)

        def step(tuning: Any) -> Tensor:
            groups.sort(tuning)
            if self.bag:
                where = inputs.indices, inputs.offsets
                loops.reduce_bags(weight, *where, None, False, -1, out, tuning)
            else:
                loops.gather(weight, inputs.indices, out, tuning)
            rows = groups.distinct, groups.borders
            rate = self._rate(next(steps))
            loops.update_groups(gradient, sources, *rows, sink, weight, states, rate, tuning)
            return weight

        return {"lim+sort": step}

    def _rate(self, step: int) -> float:
        """Returns the rate that the limit is told: with Adam's bias corrections in it."""
        if self.optimizer != "adam":
            return RATE
        first, second = (1 - beta**step for beta in BETAS)
        return float(RATE * second**0.5 / first)

    def has_fbgemm(self, inputs: Inputs) -> bool:
        """See Work."""
        return self.optimizer != "adam" and inputs.shape.dtype == "fp32"

    def result(self, returned: Any, inputs: Inputs) -> Tensor:
        """See Work."""
        return changes(returned, inputs)
