"""Optimizers for embedding tables: ``torch.optim``'s, in one pass over rows that were looked up.

Each is a ``torch.optim.Optimizer`` with the arguments, defaults, state and equations of torch's
class of its name; schedulers, parameter groups, hooks, ``GradScaler`` and gradient clipping work as
they do there. What is different:

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

import math
from typing import Any

from torch import Tensor

from ._fusing import FusedTables, fuse_in_backward
from ._optimizer import Params, Rounding, TableOptimizer, accumulator_type
from ._sharding import is_sharded, new_row_state

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "FusedTables",
    "RowWiseAdagrad",
    "fuse_in_backward",
]


class SGD(TableOptimizer):
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

    _counts_steps = False

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


class Adagrad(TableOptimizer):
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
        if not initial_accumulator_value >= 0.0:
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
        value, dtype = group["initial_accumulator_value"], accumulator_type(param)
        if is_sharded(param):
            return new_row_state(param, value, dtype)
        return param.new_full((param.size(0),), value, dtype=dtype)


class Adam(TableOptimizer):
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # as torch's, whatever was loaded
            group["decoupled_weight_decay"] = True
