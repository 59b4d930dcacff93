"""The base of the optimizers of ``myemb.optim``: torch's base class with steps on tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Rounding = Literal["nearest", "stochastic", "split"]

_update_ = torch.ops.myemb.embedding_update_
_ROUNDINGS = ("nearest", "stochastic", "split")
_MAX_SEED = 2**63


def accumulator_type(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _is_low_halves(key: str) -> bool:
    return key == "low_halves"


class TableOptimizer(torch.optim.Optimizer):
    """What the optimizers of this module share.

    A subclass says which states a parameter has and what the numbers of its next step are.
    """

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        for name in ("capturable", "differentiable"):
            if defaults.get(name):
                raise NotImplementedError(f"myemb.optim.{type(self).__name__}: {name}=True")
        for name in ("lr", "eps", "weight_decay", "momentum", "lr_decay"):
            value = defaults.get(name, 0.0)
            if not float(value) >= 0.0:
                title = {"lr": "learning rate"}.get(name, name)
                raise ValueError(f"Invalid {title}: {value}")
        if defaults["rounding"] not in _ROUNDINGS:
            raise ValueError(
                f"rounding has to be one of {', '.join(_ROUNDINGS)} but got {defaults['rounding']}"
            )
        if not 0 <= defaults["seed"] < _MAX_SEED:
            raise ValueError(f"seed has to be in [0, 2**63) but got {defaults['seed']}")
        super().__init__(params, defaults)
        self.fused: list[Any] = []  # handles of tables that are fused; they live as long as this

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a state_dict of torch's optimizer has no such options
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The loss, or ``None``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state of an optimizer of this class, or of torch's class of that name."""
        super().load_state_dict(state_dict)
        # It has cast everything to the type of the parameter; states may have more bits than that.
        saved = itertools.chain.from_iterable(g["params"] for g in state_dict["param_groups"])
        params = itertools.chain.from_iterable(g["params"] for g in self.param_groups)
        for name, param in zip(saved, params, strict=True):
            for key, value in state_dict["state"].get(name, {}).items():
                if isinstance(value, Tensor) and key != "step":
                    dtype = value.dtype if _is_low_halves(key) else accumulator_type(param)
                    self.state[param][key] = value.to(param.device, dtype)

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, options = self.next_update(param, group, grad.is_sparse)
        if param.dim() == 2:
            _update_(param, state, grad, **options)
            return
        # Any other parameter is a table of one row.
        weight = param.contiguous().view(1, -1)
        tables = [table.view(1, -1) for table in state]
        _update_(weight, tables, grad.contiguous().view(1, -1), **options)
        if not param.is_contiguous():
            param.copy_(weight.view(param.shape))

    def next_update(
        self, param: Tensor, group: dict[str, Any], sparse: bool
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Counts a step; returns the states and the keyword arguments of ``embedding_update_``."""
        state = self.state[param]
        step = self._count_step(state)
        options = self._options(group, state, step, sparse)
        options |= {
            "lr": options.get("lr", float(group["lr"])),
            "maximize": group["maximize"],
            "rounding": group["rounding"],
            "seed": group["seed"],
            "step": step,
        }
        return self._tables(param, group), options

    @staticmethod
    def _count_step(state: dict[str, Any]) -> int:
        step = state.get("step")
        if not isinstance(step, Tensor):  # torch.optim.SparseAdam has an int
            step = torch.tensor(float(step or 0))
        state["step"] = step.cpu() + 1 if step.device.type != "cpu" else step.add_(1)
        return int(state["step"])

    def _tables(self, param: Tensor, group: dict[str, Any]) -> list[Tensor]:
        """The tensors that go with a parameter, made at its first step."""
        state = self.state[param]
        tables = []
        for name in self._state_names(group):
            if state.get(name) is None:
                state[name] = self._new_state(param, group)
            tables.append(state[name])
        if group["rounding"] == "split":
            if state.get("low_halves") is None:
                state["low_halves"] = torch.zeros_like(param, dtype=torch.int16)
            tables.append(state["low_halves"])
        return tables

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        return torch.zeros_like(
            param, dtype=accumulator_type(param), memory_format=torch.contiguous_format
        )

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError

    def _options(
        self, group: dict[str, Any], state: dict[str, Any], step: int, sparse: bool
    ) -> dict[str, Any]:
        raise NotImplementedError
