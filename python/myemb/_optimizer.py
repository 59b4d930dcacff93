"""The base of the optimizers of ``myemb.optim``: torch's base class with steps on tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ._sharding import is_sharded, local_parts

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Rounding = Literal["nearest", "stochastic", "split"]

_update_ = torch.ops.myemb.embedding_update_
_ROUNDINGS = get_args(Rounding)
_MAX_SEED = 2**63
_MAX_FLOAT32_STEP = 2**24  # beyond it torch's type of a step cannot count


def accumulator_type(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _rounding(param: Tensor, group: dict[str, Any]) -> str:
    """Only 16 bits are rounded to: other parameters of a group are stored as they are."""
    return str(group["rounding"]) if param.element_size() == 2 else "nearest"


def _update_as_table(
    param: Tensor, state: list[Tensor], grad: Tensor, options: dict[str, Any]
) -> None:
    """Any parameter is a table: of its first dimension's rows, or of one row."""
    rows = param.size(0) if grad.is_sparse else 1
    written = [param, *state]
    weight, *tables = (tensor.contiguous().view(rows, -1) for tensor in written)
    if grad.is_sparse:
        if grad.sparse_dim() != 1:
            raise RuntimeError(
                f"a sparse gradient has to be one of rows (sparse_dim 1), but that of a parameter "
                f"of shape {list(param.shape)} has sparse_dim {grad.sparse_dim()}"
            )
        values = grad._values().reshape(grad._nnz(), weight.size(1))
        grad = torch.sparse_coo_tensor(
            grad._indices(), values, weight.shape, check_invariants=False
        )
    else:
        grad = grad.contiguous().view(rows, -1)
    _update_(weight, tables, grad, **options)
    for tensor, table in zip(written, (weight, *tables), strict=True):
        if not tensor.is_contiguous():
            tensor.copy_(table.view(tensor.shape))


class TableOptimizer(torch.optim.Optimizer):
    """What the optimizers of this module share.

    A subclass says which states a parameter has and what the numbers of its next step are.
    """

    _counts_steps = True  # among the states; stochastic rounding always does

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        for name in ("capturable", "differentiable"):
            if defaults.get(name):
                raise NotImplementedError(f"myemb.optim.{type(self).__name__}: {name}=True")
        lr = defaults["lr"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
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

    @classmethod
    def __subclasses__(cls) -> list[type[Any]]:
        """Those by others, also of our own subclasses, which have names of torch's.

        Who lists the subclasses of ``torch.optim.Optimizer`` by name, as class_resolver does as it
        is imported, has to find every name once.
        """
        found: list[type[Any]] = []
        for each in type.__subclasses__(cls):
            found += each.__subclasses__() if each.__module__ == "myemb.optim" else [each]
        return found

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a state_dict of torch's optimizer has no such options
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Sets all gradients to ``None``, or to zero: ``torch.optim.Optimizer.zero_grad``."""
        if self._with_gradient() or _profiler_enabled():
            super().zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The loss, or ``None``.
        """
        if self._is_observed():
            return self._observed_step() if closure is None else self._observed_step(closure)
        return self._step(closure)

    # torch wraps the step of a class that does not say so. Its hooks and its mark for the profiler
    # take longer than the steps of small tables, and fused ones have nothing else to do here.
    step.hooked = True  # type: ignore[attr-defined]

    def _is_observed(self) -> bool:
        if type(self).step is not TableOptimizer.step:
            return False  # by whoever wraps the step of that class
        hooks = (
            self._optimizer_step_pre_hooks,
            self._optimizer_step_post_hooks,
            _global_optimizer_pre_hooks,
            _global_optimizer_post_hooks,
        )
        return any(hooks) or _profiler_enabled()

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if found := self._with_gradient():
            with torch.no_grad():
                for param, grad, group in found:
                    self._update(param, grad, group)
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    def _with_gradient(self) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
        return [
            (param, param.grad, group)
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None
        ]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state of an optimizer of this class, or of torch's class of that name."""
        seen: dict[str, Any] = {}
        hooks = (
            self.register_load_state_dict_pre_hook(lambda _, given: seen.update(given)),
            self.register_load_state_dict_post_hook(lambda _: self._uncast(seen), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _uncast(self, state_dict: dict[str, Any]) -> None:
        """Undoes a cast of all states to the type of the parameter: they may have more bits."""
        saved = itertools.chain.from_iterable(g["params"] for g in state_dict["param_groups"])
        params = itertools.chain.from_iterable(g["params"] for g in self.param_groups)
        for name, param in zip(saved, params, strict=True):
            for key, value in state_dict["state"].get(name, {}).items():
                if isinstance(value, Tensor) and key != "step":
                    dtype = value.dtype if key == "low_halves" else accumulator_type(param)
                    self.state[param][key] = value.to(param.device, dtype)

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        before = dict(self.state[param])
        step = int(before.get("step") or 0)
        try:
            state, options = self.next_update(param, group, grad.is_sparse)
            weight = param
            if is_sharded(param):  # no rule here looks beyond a row
                weight, grad, *state = local_parts(param, grad, *state)
            if weight.dim() == 2:
                _update_(weight, state, grad, **options)
            else:
                _update_as_table(weight, state, grad, options)
        except Exception:  # the step has not been made
            self.state[param] = before
            if isinstance(before.get("step"), Tensor):
                before["step"].fill_(step)
            raise

    def next_update(
        self, param: Tensor, group: dict[str, Any], sparse: bool
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Counts a step; returns the states and the keyword arguments of ``embedding_update_``."""
        state, rounding = self.state[param], _rounding(param, group)
        step = self._count_step(state) if self._counts_steps or rounding == "stochastic" else 0
        options = self._options(group, state, step, sparse)
        if "lr" not in options:
            options["lr"] = float(group["lr"])
        options |= {
            "maximize": group["maximize"],
            "rounding": rounding,
            "seed": group["seed"],
            "step": step,
        }
        return self._tables(param, group), options

    @staticmethod
    def _count_step(state: dict[str, Any]) -> int:
        step = state.get("step")
        count = 1 if step is None else int(step) + 1  # torch.optim.SparseAdam has an int
        if isinstance(step, Tensor) and step.device.type == "cpu" and count < _MAX_FLOAT32_STEP:
            step.fill_(count)
        else:
            dtype = torch.float32 if count < _MAX_FLOAT32_STEP else torch.float64
            state["step"] = torch.tensor(float(count), dtype=dtype)
        return count

    def _tables(self, param: Tensor, group: dict[str, Any]) -> list[Tensor]:
        """The tensors that go with a parameter, made at its first step."""
        state = self.state[param]
        tables = []
        for name in self._state_names(group):
            if state.get(name) is None:
                state[name] = self._new_state(param, group)
            tables.append(state[name])
        if _rounding(param, group) == "split":
            if state.get("low_halves") is None:
                state["low_halves"] = param.new_zeros(param.shape, dtype=torch.int16)
            tables.append(state["low_halves"])
        return tables

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        return param.new_zeros(param.shape, dtype=accumulator_type(param))

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError

    def _options(
        self, group: dict[str, Any], state: dict[str, Any], step: int, sparse: bool
    ) -> dict[str, Any]:
        raise NotImplementedError
