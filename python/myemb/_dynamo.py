"""What Dynamo traces in place of ``functional.embedding``.

Before each run of a graph Dynamo looks again at every name that tracing has read, which for a few
indices takes as long as the lookup. What the substitute of a function holds is not looked at, and
of ``torch.nn.functional.embedding``, which Dynamo knows, nothing is.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable

import torch
from torch import Tensor
from torch._dynamo.exc import UnspecializeRestartAnalysis

from . import _padding, functional

_registered = False


def register() -> None:
    """Tells Dynamo, once.

    Raises:
        UnspecializeRestartAnalysis: It did: what is being traced has to be traced anew.
    """
    global _registered
    if not _registered:
        _registered = True
        _substitute_embedding()
        raise UnspecializeRestartAnalysis(restart_reason="myemb has substitutes now")


def _substitute_embedding() -> None:
    original = functional.embedding
    # Another function of the same code: this one is traced itself.
    any_embedding: Callable[..., Tensor] = types.FunctionType(
        original.__code__, original.__globals__, argdefs=original.__defaults__
    )
    sharded: tuple[type, ...] = ()
    if torch.distributed.is_available():
        from torch.distributed.tensor import DTensor

        sharded = (DTensor,)
    lookup: Callable[..., Tensor] = torch.ops.myemb.embedding.default
    # Not read by name, but held.
    isinstance, padding_row = builtins.isinstance, _padding.padding_row

    @torch.compiler.substitute_in_graph(original)
    def embedding(
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        if max_norm is not None or input.is_nested or isinstance(weight, sharded):
            options = (padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
            return any_embedding(input, weight, *options)
        padding = -1
        if padding_idx is not None:  # row 0 of an empty table passes, as in PyTorch
            padding = padding_idx and padding_row(padding_idx, weight.size(0))
        return lookup(weight, input, padding, scale_grad_by_freq, sparse)
