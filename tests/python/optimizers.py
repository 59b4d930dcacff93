"""The optimizers that the tests try, their gradients, and torch.optim in float64 beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import reference
import torch
from inputs import indices
from torch import Tensor
from torch.nn import Parameter

from myemb import optim

STEPS = 20
KINDS = ("uniform", "zipf", "one_row", "empty", "distinct")
DECAY = 0.01  # times a weight it is less than the smallest gradient: the two never cancel


class RowWiseAdagrad(torch.optim.Adagrad):
    """What PyTorch does not have."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        value = options.get("initial_accumulator_value", 0.0)
        for table in self.param_groups[0]["params"]:
            self.state[table]["sum"] = table.new_full(table.shape[:1], value)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        group = self.param_groups[0]
        for table in group["params"]:
            state = self.state[table]
            gradient = -table.grad if group["maximize"] else table.grad
            rate = group["lr"] / (1 + state["step"].item() * group["lr_decay"])
            state["step"] += 1
            reference.row_wise_adagrad(
                table, state["sum"], gradient, rate, group["eps"], group["weight_decay"]
            )


TORCHS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adagrad": torch.optim.Adagrad,
    "RowWiseAdagrad": RowWiseAdagrad,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}
ADAGRAD: dict[str, Any] = {"lr": 0.1, "lr_decay": 0.1, "weight_decay": DECAY, "maximize": True}
ADAGRAD |= {"initial_accumulator_value": 0.5, "eps": 0.01}
AMSGRAD: dict[str, Any] = {"lr": 0.01, "betas": (0.5, 0.75), "eps": 0.01, "amsgrad": True}
AMSGRAD |= {"weight_decay": DECAY, "maximize": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.05}),
    "sgd decay": ("SGD", {"lr": 0.05, "weight_decay": DECAY, "maximize": True}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.875}),
    "dampening": (
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.25, "weight_decay": DECAY, "maximize": True},
    ),
    "nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": DECAY}),
    "adagrad": ("Adagrad", {}),
    "adagrad options": ("Adagrad", ADAGRAD),
    "row wise": ("RowWiseAdagrad", {}),
    "row wise options": ("RowWiseAdagrad", ADAGRAD),
    "adam": ("Adam", {"lr": 0.01}),
    "amsgrad": ("Adam", AMSGRAD),
    "adam decoupled": (
        "Adam",
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 0.01},
    ),
    "adamw": ("AdamW", {"lr": 0.01}),
    "adamw amsgrad": ("AdamW", AMSGRAD | {"weight_decay": 0.1}),
}

# The first step of a rule of the operator: the case of CASES that it is, with its options, and the
# arguments of the operator.
RULES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sgd": ("sgd", {"weight_decay": 0.01, "lr": 0.5}, {"rule": "sgd"}),
    "momentum": ("momentum", {"lr": 0.5}, {"rule": "sgd", "momentum": 0.875}),
    "adagrad": ("adagrad", {"lr": 0.5, "eps": 0.01}, {"rule": "adagrad"}),
    "row wise": ("row wise", {"lr": 0.5, "eps": 0.01}, {"rule": "row_wise_adagrad"}),
    "adam": (
        "adamw",
        {"lr": 0.5, "eps": 0.01, "betas": (0.5, 0.75), "weight_decay": 0.01},
        {"rule": "adam", "beta1": 0.5, "beta2": 0.75, "shrink": 0.005, "weight_decay": 0.0}
        | {"eps": 0.005},  # the root of 1 - beta2 times that
    ),
}
NUM_STATES = {"sgd": 0, "momentum": 1, "adagrad": 1, "row wise": 1, "adam": 2}
each_case = pytest.mark.parametrize("case", CASES)


def ours(case: str, params: Any, **more: Any) -> torch.optim.Optimizer:
    name, options = CASES[case]
    optimizer: torch.optim.Optimizer = getattr(optim, name)(params, **options | more)
    return optimizer


class Oracle:
    """torch.optim on float64: for a sparse gradient, on the sub-table of the rows that it names."""

    def __init__(self, case: str, weight: Tensor, **more: Any) -> None:
        self.name, self.options = CASES[case][0], CASES[case][1] | more
        self.weight = weight.detach().to("cpu", torch.float64, copy=True)
        self.state: dict[str, Tensor] = {}
        self.steps = 0

    def step(self, gradient: Tensor) -> None:
        if gradient.is_sparse:
            summed = gradient.cpu().double().coalesce()
            rows, values = summed.indices()[0], summed.values()
        else:
            rows, values = torch.arange(len(self.weight)), gradient.cpu().double()
        part = Parameter(self.weight[rows])
        part.grad = values
        optimizer = TORCHS[self.name]([part], **self.options)
        if self.steps:
            optimizer.state[part] = {name: table[rows] for name, table in self.state.items()}
            optimizer.state[part]["step"] = torch.tensor(float(self.steps))
        self.steps += 1
        if self.name == "Adam" and gradient.is_sparse:  # SparseAdam adds eps before the correction
            for group in optimizer.param_groups:
                group["eps"] /= math.sqrt(1 - group["betas"][1] ** self.steps)
        optimizer.step()
        self.weight[rows] = part.detach()
        for name, table in optimizer.state[part].items():
            if name != "step":
                self._whole(name, table)[rows] = table

    def _whole(self, name: str, part: Tensor) -> Tensor:
        if name not in self.state:
            value = self.options.get("initial_accumulator_value", 0.0)
            shape = (len(self.weight), *part.shape[1:])
            self.state[name] = torch.full(shape, value, dtype=torch.float64)
        return self.state[name]


def eighths(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Within [-1, 1]: sums of them are exact, so that their sign is never a matter of rounding."""
    return (torch.randint(-8, 9, shape, device=device) / 8).to(dtype)


def sparse(rows: Tensor, values: Tensor, size: int) -> Tensor:
    shape = (size, *values.shape[1:])
    return torch.sparse_coo_tensor(rows.long().unsqueeze(0), values, shape, check_invariants=False)


def lookups(kind: str, size: int, num_rows: int, device: str = "cpu") -> Tensor:
    if kind == "empty":
        return torch.empty(0, dtype=torch.int64, device=device)
    return indices(
        kind, min(size, num_rows) if kind == "distinct" else size, num_rows, device=device
    )


def gradients(
    weight: Tensor, steps: int = STEPS, size: int = 60, first: int = 0
) -> Iterator[Tensor]:
    """Sparse ones for a table, of every kind in turn."""
    for step in range(steps):
        rows = lookups(KINDS[(first + step) % len(KINDS)], size, len(weight), str(weight.device))
        values = eighths(len(rows), weight.size(1), dtype=weight.dtype, device=str(weight.device))
        yield sparse(rows, values, len(weight))


def train(optimizer: torch.optim.Optimizer, table: Parameter, gradients: list[Tensor]) -> None:
    for gradient in gradients:
        table.grad = gradient
        optimizer.step()
    table.grad = None
