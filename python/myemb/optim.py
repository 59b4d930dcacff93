"""Optimizers for embedding tables: ``torch.optim``'s, in one pass over the rows that were looked up.

Each is a ``torch.optim.Optimizer`` with the arguments, defaults, state and equations of torch's class
of its name; schedulers, parameter groups, hooks, ``GradScaler`` and gradient clipping work as they
do there. What is different:

- **Sparse gradients**, duplicates included, are summed and applied in one pass, without a coalesced
  copy. A row without an entry stays as it is, states included: the step equals torch's on the
  sub-table of the other rows. So ``weight_decay``, ``momentum``, Adam and AdamW work with sparse
  gradients. For those, :class:`Adam` is ``torch.optim.SparseAdam`` (``eps`` is added to the root
  before the bias correction and not after it).
- **16-bit tables** have states in float32. ``rounding="stochastic"`` rounds a weight up or down at
  random so that small updates count in the mean; ``rounding="split"`` keeps the other 16 bits of a
  bfloat16 weight beside it, so that training equals that of a float32 table.
- :func:`fuse_in_backward` updates tables during ``backward()``: no gradient is stored.
- ``foreach`` and ``fused`` are taken and mean nothing; ``capturable`` and ``differentiable`` are
  refused. A tensor as ``lr`` is read at every step.

Updates have the same bits for every number of threads and every device, with random rounding, too.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from . import _C

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RowWiseAdagrad", "fuse_in_backward"]

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Rounding = Literal["nearest", "stochastic", "split"]

_update_ = torch.ops.myemb.embedding_update_
_ROUNDINGS = ("nearest", "stochastic", "split")
_MAX_SEED = 2**63


def _accumulator_type(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _is_low_halves(key: str) -> bool:
    return key == "low_halves"


class _TableOptimizer(torch.optim.Optimizer):
    """What the optimizers of this module share.

    A subclass says which states a parameter has and what the numbers of its next step are.
    """

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        for name in ("capturable", "differentiable"):
            if defaults.get(name):
                raise NotImplementedError(f"myemb.optim.{type(self).__name__}: {name}=True")
        for name in ("lr", "eps", "weight_decay", "momentum", "lr_decay"):
            value = defaults.get(name, 0.0)
            if not 0.0 <= float(value):
                title = {"lr": "learning rate"}.get(name, name)
                raise ValueError(f"Invalid {title}: {value}")
        if defaults["rounding"] not in _ROUNDINGS:
            raise ValueError(
                f"rounding has to be one of {', '.join(_ROUNDINGS)} but got {defaults['rounding']}"
            )
        if not 0 <= defaults["seed"] < _MAX_SEED:
            raise ValueError(f"seed has to be in [0, 2**63) but got {defaults['seed']}")
        super().__init__(params, defaults)
        self._fused: list[FusedTables] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a state_dict of torch's optimizer has no such options
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
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
                    dtype = value.dtype if _is_low_halves(key) else _accumulator_type(param)
                    self.state[param][key] = value.to(param.device, dtype)

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, options = self._next_update(param, group, grad.is_sparse)
        if param.dim() == 2:
            _update_(param, state, grad, **options)
            return
        # Any other parameter is a table of one row.
        weight = param.contiguous().view(1, -1)
        tables = [table.view(1, -1) for table in state]
        _update_(weight, tables, grad.contiguous().view(1, -1), **options)
        if not param.is_contiguous():
            param.copy_(weight.view(param.shape))

    def _next_update(
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
            param, dtype=_accumulator_type(param), memory_format=torch.contiguous_format
        )

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError

    def _options(
        self, group: dict[str, Any], state: dict[str, Any], step: int, sparse: bool
    ) -> dict[str, Any]:
        raise NotImplementedError


def fuse_in_backward(
    optimizer: torch.optim.Optimizer, tables: torch.nn.Module | Tensor | Iterable[Tensor]
) -> FusedTables:
    """Updates tables during ``backward()`` from now on; no gradient of theirs is stored.

    The lookups of a table need no gradient to be computed: groups of lookups are summed and applied
    row by row. Where a table is looked up more than once in a graph, or is used by other operations,
    too (a tied output layer, a penalty), its one step waits for all of them; a dense gradient among
    them makes it the step of a dense gradient. ``optimizer.step()`` goes on serving everything
    else, and schedulers change the rates as ever. ``per_sample_weights`` get their gradient.

    What depends on a stored gradient cannot have one: clipping, ``GradScaler``, accumulation (each
    backward pass is a step), hooks on the table. With ``torch.utils.checkpoint`` use
    ``use_reentrant=False``: a re-entrant checkpoint is a pass of its own.

    Args:
        optimizer: One of this module; it has the tables among its parameters.
        tables: The tables, ``(V, D)``, or a module, whose embedding tables those are.

    Returns:
        A handle: ``remove()`` ends it. The tables are fused as long as the optimizer lives.

    Raises:
        TypeError: The optimizer is not of this module.
        ValueError: A table is not among its parameters, or there is none.
        RuntimeError: A table is fused already, or no leaf that requires grad.

    ``backward(create_graph=True)`` raises a RuntimeError; ``torch.autograd.grad`` returns the
    gradient of a fused table and leaves the table alone.
    """
    if not isinstance(optimizer, _TableOptimizer):
        raise TypeError(
            f"fuse_in_backward takes an optimizer of myemb.optim, but got {type(optimizer)}"
        )
    if isinstance(tables, Tensor):
        tables = [tables]
    found = _tables_of(tables) if isinstance(tables, torch.nn.Module) else list(tables)
    if not found:
        raise ValueError("fuse_in_backward found no embedding table")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for table in found:
        if id(table) not in groups:
            raise ValueError(
                f"a table of shape {tuple(table.shape)} is not among the optimizer's parameters"
            )
    fused: list[_C.FusedTable] = []
    handle = FusedTables(fused)
    try:
        for table in found:
            next_step = _NextStep(weakref.ref(optimizer), table)
            fused.append(_C.fuse_in_backward(table, next_step))
    except Exception:
        handle.remove()
        raise
    optimizer._fused.append(handle)
    return handle


class FusedTables:
    """Tables that are updated during ``backward()``; see :func:`fuse_in_backward`."""

    def __init__(self, fused: list[_C.FusedTable]) -> None:
        self._fused = fused

    def remove(self) -> None:
        """Ends it: gradients are stored again."""
        for table in self._fused:
            table.remove()
        self._fused.clear()


class _NextStep:
    """Begins the next step of a table, when autograd has its gradient."""

    def __init__(self, optimizer: weakref.ref[_TableOptimizer], table: Tensor) -> None:
        self._optimizer, self._table = optimizer, table

    def __call__(self, sparse: bool) -> tuple[list[Tensor], dict[str, Any]]:
        optimizer = self._optimizer()
        assert optimizer is not None, "it keeps what calls this"
        for group in optimizer.param_groups:
            if any(param is self._table for param in group["params"]):
                return optimizer._next_update(self._table, group, sparse)
        raise RuntimeError("a fused table is not among the parameters of its optimizer any more")


def _tables_of(module: torch.nn.Module) -> list[Tensor]:
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    weights = {id(m.weight): m.weight for m in module.modules() if isinstance(m, kinds)}
    return [weight for weight in weights.values() if weight.requires_grad]


class SGD(_TableOptimizer):
    """Stochastic gradient descent: ``torch.optim.SGD``.

    Args:
        params: Parameters, or groups of them.
        lr: The learning rate.
        momentum: How much of the momentum buffer a step keeps.
        dampening: How much of the gradient does not enter the buffer. The first step of a
            parameter has none, as in torch.
        weight_decay: Times the weight, added to the gradient.
        nesterov: Look ahead; needs momentum and no dampening.
        maximize: Go up the gradient.
        foreach, differentiable, fused: See the module.
        rounding: ``"nearest"``, or for 16-bit tables ``"stochastic"``, or for bfloat16 ``"split"``.
        seed: Of stochastic rounding.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
                "rounding": rounding,
                "seed": seed,
            },
        )

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _options(
        self, group: dict[str, Any], state: dict[str, Any], step: int, sparse: bool
    ) -> dict[str, Any]:
        is_first = state.get("momentum_buffer") is None
        return {
            "rule": "sgd",
            "momentum": group["momentum"],
            "dampening": 0.0 if is_first else group["dampening"],
            "weight_decay": group["weight_decay"],
            "nesterov": group["nesterov"],
        }


class Adagrad(_TableOptimizer):
    """Adagrad: ``torch.optim.Adagrad``.

    Args:
        params: Parameters, or groups of them.
        lr: The learning rate.
        lr_decay: Step t divides the rate by ``1 + (t - 1) * lr_decay``.
        weight_decay: Times the weight, added to the gradient.
        initial_accumulator_value: What the sums of squares begin with.
        eps: Added to their roots.
        foreach, maximize, differentiable, fused: As in :class:`SGD`.
        rounding, seed: As in :class:`SGD`.

    Raises:
        ValueError: An argument is out of its range.
    """

    _rule = "adagrad"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        if not 0.0 <= initial_accumulator_value:
            raise ValueError(
                f"Invalid initial_accumulator_value value: {initial_accumulator_value}"
            )
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
                "rounding": rounding,
                "seed": seed,
            },
        )

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        return super()._new_state(param, group).fill_(group["initial_accumulator_value"])

    def _options(
        self, group: dict[str, Any], state: dict[str, Any], step: int, sparse: bool
    ) -> dict[str, Any]:
        return {
            "rule": self._rule,
            "lr": float(group["lr"]) / (1 + (step - 1) * group["lr_decay"]),
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
        }


class RowWiseAdagrad(Adagrad):
    """Adagrad with one sum for each row, of the mean squares of its gradients.

    The state of a table ``(V, D)`` is ``(V,)``. The rule is FBGEMM's ``EXACT_ROWWISE_ADAGRAD``, the
    arguments are those of :class:`Adagrad`, and every parameter has to be 2-D.
    """

    _rule = "row_wise_adagrad"

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        if param.dim() != 2:
            raise ValueError(
                f"RowWiseAdagrad is for tables of rows, but a parameter has shape {param.shape}"
            )
        value = group["initial_accumulator_value"]
        return param.new_full((param.size(0),), value, dtype=_accumulator_type(param))


class Adam(_TableOptimizer):
    """Adam: ``torch.optim.Adam``, and ``torch.optim.SparseAdam`` for sparse gradients.

    Args:
        params: Parameters, or groups of them.
        lr: The learning rate.
        betas: How much of the two moments a step keeps.
        eps: Added to the root of the second one.
        weight_decay: Times the weight, added to the gradient.
        amsgrad: Divide by the root of the largest second moment so far.
        foreach, maximize, differentiable, fused, capturable: See the module and :class:`SGD`.
        decoupled_weight_decay: Take the decay from the weight instead, as :class:`AdamW` does.
        rounding, seed: As in :class:`SGD`.

    Raises:
        ValueError: An argument is out of its range.
    """

    _sparse_eps = True  # as SparseAdam adds it

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        for index, beta in enumerate(betas):
            if not 0.0 <= float(beta) < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
                "rounding": rounding,
                "seed": seed,
            },
        )

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))

    def _options(
        self, group: dict[str, Any], state: dict[str, Any], step: int, sparse: bool
    ) -> dict[str, Any]:
        lr, eps, decay = float(group["lr"]), group["eps"], group["weight_decay"]
        beta1, beta2 = map(float, group["betas"])
        # lr m^ / (sqrt(v^) + eps), m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t), with the
        # corrections taken out of the fraction.
        root = math.sqrt(1 - beta2**step)
        decoupled = group["decoupled_weight_decay"]
        return {
            "rule": "adam",
            "lr": lr * root / (1 - beta1**step),
            "eps": eps if sparse and self._sparse_eps else eps * root,
            "weight_decay": 0.0 if decoupled else decay,
            "shrink": lr * decay if decoupled else 0.0,
            "beta1": beta1,
            "beta2": beta2,
            "amsgrad": group["amsgrad"],
        }


class AdamW(Adam):
    """Adam with decoupled weight decay: ``torch.optim.AdamW``.

    Every step takes ``lr * weight_decay`` of a weight from it first; with sparse gradients that is
    the weights of the rows that have an entry. The arguments are those of :class:`Adam`.
    """

    _sparse_eps = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            rounding=rounding,
            seed=seed,
        )
