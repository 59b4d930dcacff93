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

from collections.abc import Callable, Sequence
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


def _embedding_bag_tables(
    weights: Sequence[Tensor],
    indices: Tensor,
    offsets: Tensor,
    feature_tables: Sequence[int] | None = None,
    modes: Sequence[int] | None = None,
    per_sample_weights: Tensor | None = None,
    padding_idx: Sequence[int] | None = None,
    sparse_tables: Sequence[int] = (),
) -> Tensor:
    """Each feature's bags as some of all lookups, so that no shape depends on the offsets."""
    tables = range(len(weights)) if feature_tables is None else feature_tables
    num_bags = (offsets.size(0) - 1) // len(tables)
    position = torch.arange(indices.size(0), device=indices.device)
    outputs = []
    for feature, table in enumerate(tables):
        borders = offsets[feature * num_bags : (feature + 1) * num_bags + 1].to(torch.int64)
        is_own = (position >= borders[0]) & (position < borders[-1])
        rows = torch.where(is_own, indices.to(torch.int64), 0)
        bags = _ops.embedding_bag(
            weights[table],
            rows,
            torch.cat([borders.new_zeros(1), borders]),  # one more bag before, and one behind
            False,
            0 if modes is None else modes[table],
            table in sparse_tables,
            per_sample_weights,
            False,
            None if padding_idx is None or padding_idx[table] < 0 else padding_idx[table],
        )
        outputs.append(bags[1:-1])
    return torch.cat(outputs, 1)


decomposition_table: dict[Any, Callable[..., Any]] = {
    operator.default: _in_aten(operator.default)
    for operator in (
        _ops.embedding,
        _ops.embedding_dense_backward,
        _ops.embedding_bag,
        _ops.embedding_bag_dense_backward,
        _ops.embedding_bag_sparse_backward,
        _ops.embedding_bag_per_sample_weights_backward,
    )
} | {
    _ops.checked_offsets.default: _checked_offsets,
    _ops.embedding_bag_tables.default: _embedding_bag_tables,
}
