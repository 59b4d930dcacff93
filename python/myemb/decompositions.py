"""The operators of this library in ATen's, for tools that know no others.

ONNX, and compilers and quantisers that rewrite graphs, look for ``aten.embedding`` and its like. A
program of ``torch.export`` has none of ours left after::

    program = torch.export.export(model, arguments)
    program = program.run_decompositions(
        torch.export.default_decompositions() | myemb.decomposition_table
    )

What was differentiable stays so, and results are the same up to rounding. Bad indices are refused
by whatever runs the program, offsets are no longer checked.

Attributes:
    decomposition_table: From an operator to a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["decomposition_table"]

_ops = torch.ops.myemb
_keys: Any = torch._C.DispatchKey
_SIGN = _keys.ZeroTensor  # csrc/ops/decompositions.cpp looks for it
_AUTOGRAD = torch._C.DispatchKeySet(_keys.AutogradCPU)


def _in_aten(operator: Any) -> Callable[..., Any]:
    """``operator`` in the ATen operations that it is in forward-mode AD.

    Those are written in C++, where the key of autograd would call the operator. They are asked for
    by that key, which tracing excludes, and by a sign that nothing else sees: a key that is both
    included and excluded.
    """

    def decompose(*arguments: Any, **options: Any) -> Any:
        included = torch._C._dispatch_tls_local_include_set().add(_SIGN)
        excluded = torch._C._dispatch_tls_local_exclude_set().add(_SIGN) - _AUTOGRAD
        with torch._C._ForceDispatchKeyGuard(included, excluded):
            return operator(*arguments, **options)

    return decompose


def _checked_offsets(
    offsets: Tensor, num_lookups: int, include_last_offset: bool = False
) -> Tensor:
    return offsets.to(torch.int64, copy=True)


decomposition_table: dict[Any, Callable[..., Any]] = {
    operator.default: _in_aten(operator.default)
    for operator in (
        _ops.embedding,
        _ops.embedding_dense_backward,
        _ops.embedding_bag,
        _ops.embedding_bag_dense_backward,
        _ops.embedding_bag_sparse_backward,
        _ops.embedding_bag_per_sample_weights_backward,
        _ops.embedding_bag_tables,
    )
} | {_ops.checked_offsets.default: _checked_offsets}
