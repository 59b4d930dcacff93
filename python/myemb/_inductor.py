"""What TorchInductor makes of a lookup: part of a kernel of its own, or a call of the operator.

To Inductor an operator of this library is a call that it cannot look into. That is what a lookup
of many rows should be; but rows that are few, or that pointwise operations read at once, cost less
in a kernel that Inductor writes, as it does for ``aten.embedding``.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch._inductor import config
from torch._inductor.lowering import fallback_handler, lowerings, user_lowerings
from torch._inductor.utils import parallel_num_threads
from torch._inductor.virtualized import V

from ._inductor_gradient import add_in_order

_aten = torch.ops.aten
_FEW = 16 * 1024  # elements: they are looked up in the time that a call takes
_SMALL = 256 * 1024  # elements of a table: one thread zeros them in that time
_CHUNK = 256  # lookups that docs/numbers.md adds from left to right
_VIEWS = {_aten.view, _aten.reshape, _aten.unsqueeze, _aten.squeeze, _aten.permute, _aten.expand}
_INDEX_DTYPES = (torch.int32, torch.int64)
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def register() -> None:
    """Tells Inductor."""
    ops = torch.ops.myemb
    user_lowerings[ops.embedding.default] = _lower_embedding
    user_lowerings[ops.embedding_dense_backward.default] = _lower_embedding_dense_backward
    user_lowerings[ops.embedding_renorm_.default] = _lower_embedding_renorm_


def _lower_embedding(weight: Any, indices: Any, *options: Any, **named_options: Any) -> Any:
    """The rows as a part of Inductor's kernels, or None: a call of the operator.

    The options are about the gradient, which is another operator by now.
    """
    if weight.get_dtype() not in _DTYPES or indices.get_dtype() not in _INDEX_DTYPES:
        return None
    numel = _product([*indices.get_size(), weight.get_size()[1]])
    few = V.graph.sizevars.optimization_hint(numel, fallback=_FEW) < _FEW
    if not few and not any(map(_is_pointwise, _readers(V.graph.current_node))):
        return None
    return lowerings[_aten.embedding.default](weight, indices)


def _lower_embedding_dense_backward(
    grad_output: Any,
    indices: Any,
    num_weights: Any,
    padding_idx: Any = -1,
    scale_grad_by_freq: bool = False,
) -> Any:
    """Few gradients, added in the order of the lookups, or None: a call of the operator.

    Inductor writes one loop for it and for what makes the gradients, but shares it among threads,
    which add in any order, when it is long or has something long beside it.
    """
    dtype = grad_output.get_dtype()
    if dtype not in _DTYPES[:2] or indices.get_dtype() not in _INDEX_DTYPES:
        return None
    sizes = [num_weights, grad_output.get_size()[-1]]
    lookups = _product(indices.get_size())
    known = _is_number(padding_idx) and not scale_grad_by_freq
    if not known or not _is_cheap(grad_output, lookups, sizes):
        return None
    if parallel_num_threads() > 1 or config.cpp.dynamic_threads:
        reshape = lowerings[_aten.reshape.default]
        rows = reshape(grad_output, [lookups, sizes[1]])
        return add_in_order(rows, reshape(indices, [lookups]), num_weights, padding_idx)
    if padding_idx >= 0:
        is_padding = lowerings[_aten.eq.Scalar](indices, padding_idx)
        is_padding = lowerings[_aten.unsqueeze.default](is_padding, -1)
        grad_output = lowerings[_aten.where.ScalarSelf](is_padding, 0.0, grad_output)
    zeros = lowerings[_aten.full.default](sizes, 0.0, dtype=dtype, device=torch.device("cpu"))
    return lowerings[_aten.index_put.default](zeros, [indices], grad_output, accumulate=True)


def _lower_embedding_renorm_(weight: Any, *arguments: Any, **options: Any) -> Any:
    """A call of the operator. Its result is the table, or Inductor would copy it to itself."""
    renorm = torch.ops.myemb.embedding_renorm_.default
    call = fallback_handler(renorm, add_to_fallback_set=False)  # type: ignore[no-untyped-call]
    call(weight, *arguments, **options)
    return weight


def _is_cheap(grad_output: Any, lookups: Any, sizes: Sequence[Any]) -> bool:
    """Whether one thread adds the rows in the time that a call takes, and zeros a table."""
    if grad_output.get_device().type != "cpu" or not all(map(_is_number, (*sizes, lookups))):
        return False
    return bool(0 < lookups <= _CHUNK and _product(sizes) <= _SMALL)


def _product(sizes: Iterable[Any]) -> Any:
    return functools.reduce(operator.mul, sizes, 1)


def _is_number(size: Any) -> bool:
    return isinstance(size, int) or bool(getattr(size, "is_number", False))


def _readers(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    """The nodes that compute with a result, or with a view of it."""
    for user in node.users:
        if getattr(user.target, "overloadpacket", None) in _VIEWS:
            yield from _readers(user)
        else:
            yield user


def _is_pointwise(node: torch.fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())
