"""Optimizer steps during ``backward()``: what ties autograd's C++ side to a Python optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from . import _C
from ._optimizer import TableOptimizer
from ._sharding import is_sharded


def fuse_in_backward(
    optimizer: torch.optim.Optimizer, tables: torch.nn.Module | Tensor | Iterable[Tensor]
) -> FusedTables:
    """Updates tables during ``backward()`` from now on; no gradient of theirs is stored.

    The lookups of each row are summed and applied to it, without a gradient of the table. Where a
    table is looked up more than once in a graph, or is used by other operations, too (a tied output
    layer, a penalty), its one step waits for all of them; a dense gradient among them makes it the
    step of a dense gradient. Else the step is that of a sparse gradient, whatever ``sparse`` the
    module has: rows that were not looked up stay as they are. ``optimizer.step()`` goes on serving
    everything else, and schedulers change the rates as ever. ``per_sample_weights`` get their
    gradient.

    What depends on a stored gradient cannot have one: clipping, ``GradScaler``, accumulation (each
    backward pass is a step), hooks on the table. With ``DistributedDataParallel``, which waits for
    the gradient, ``backward()`` raises a RuntimeError. With ``torch.utils.checkpoint`` use
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
        NotImplementedError: A table is a ``DTensor``.

    ``backward(create_graph=True)`` raises a RuntimeError; ``torch.autograd.grad`` returns the
    gradient of a fused table and leaves the table alone.
    """
    if not isinstance(optimizer, TableOptimizer):
        raise TypeError(
            f"fuse_in_backward takes an optimizer of myemb.optim, but got {type(optimizer)}"
        )
    if isinstance(tables, Tensor):
        tables = [tables]
    found = _tables_of(tables) if isinstance(tables, torch.nn.Module) else list(tables)
    if not found:
        raise ValueError("fuse_in_backward found no embedding table")
    if any(is_sharded(table) for table in found):
        raise NotImplementedError(
            "fuse_in_backward: a table is a DTensor, whose gradient may have to come from several "
            "processes first; let the optimizer's step update it"
        )
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
    # Whoever else has the handle: without its optimizer a table cannot be updated.
    weakref.finalize(optimizer, handle.remove).atexit = False
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

    def __init__(self, optimizer: weakref.ref[TableOptimizer], table: Tensor) -> None:
        self._optimizer, self._table = optimizer, table
        self._place = 0, 0  # of its group, and in it

    def __call__(self, sparse: bool) -> tuple[list[Tensor], dict[str, Any]]:
        optimizer = self._optimizer()
        assert optimizer is not None, "it keeps what calls this"
        return optimizer.next_update(self._table, self._group(optimizer.param_groups), sparse)

    def _group(self, groups: list[dict[str, Any]]) -> dict[str, Any]:
        """The parameter group of the table, which is looked for where it was the last time."""
        g, p = self._place
        known = groups[g]["params"] if g < len(groups) else []
        if p < len(known) and known[p] is self._table:
            return groups[g]
        for g, group in enumerate(groups):
            for p, param in enumerate(group["params"]):
                if param is self._table:
                    self._place = g, p
                    return group
        raise RuntimeError("a fused table is not among the parameters of its optimizer any more")


def _tables_of(module: torch.nn.Module) -> list[Tensor]:
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    weights = {id(m.weight): m.weight for m in module.modules() if isinstance(m, kinds)}
    return [weight for weight in weights.values() if weight.requires_grad]
