"""What TorchInductor makes of a lookup: part of a kernel of its own, or a call of the operator.

To Inductor an operator of this library is a call that it cannot look into. A lookup costs less in
a kernel that Inductor writes, as it does for ``aten.embedding``: rows that pointwise operations or
sums read at once are never written, and a call takes 15 microseconds. Only rows that need fresh
memory are better off with the operator.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch._inductor import config
from torch._inductor.ir import ComputedBuffer, Pointwise, TensorBox
from torch._inductor.lowering import (
    fallback_handler,
    lowerings,
    needs_realized_inputs,
    to_dtype,
    user_lowerings,
)
from torch._inductor.utils import parallel_num_threads
from torch._inductor.virtualized import V, ops

from ._inductor_kernels import add_as_made, add_in_order, check

_aten = torch.ops.aten
# Bytes of a result. Up to here malloc has it from an earlier call, and a kernel of Inductor's takes
# as long as the operator, from 24 MiB on 1.1 to 1.2 times; from 32 MiB on malloc has each from the
# system, page by page: 2 to 4 times (one thread, 64 columns of fp32; the gradient 2 times).
_LARGE = 16 * 2**20
# Lookups. Up to here threads that share a gradient take 0.5 to 1.4 times what sorting the lookups
# takes, in tables of 6 KiB to 16 MiB; with four times as many 1 to 1.3 times. Of one column 0.5 to
# 0.7 times with sixteen times as many.
_FEW, _FEW_ELEMENTS = 16 * 1024, 256 * 1024
_VIEWS = {_aten.view, _aten.reshape, _aten.unsqueeze, _aten.squeeze, _aten.permute, _aten.expand}
_INDEX_DTYPES = (torch.int32, torch.int64)
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_PRODUCTS = {_aten.addmm, _aten.baddbmm}  # besides those of needs_realized_inputs


def register() -> None:
    """Tells Inductor."""
    myemb = torch.ops.myemb
    user_lowerings[myemb.embedding.default] = _lower_embedding
    user_lowerings[myemb.embedding_dense_backward.default] = _lower_embedding_dense_backward
    user_lowerings[myemb.embedding_renorm_.default] = _lower_embedding_renorm_


def _lower_embedding(weight: Any, indices: Any, *options: Any, **named_options: Any) -> Any:
    """The rows as a part of Inductor's kernels, or None: a call of the operator.

    The options are about the gradient, which is another operator by now.
    """
    if weight.get_dtype().is_complex or indices.get_dtype() not in _INDEX_DTYPES:
        return None
    if weight.get_device().type != "cpu":
        return lowerings[_aten.embedding.default](weight, indices)
    size = [*indices.get_size(), *weight.get_size()[1:]]
    large = _hint(_product(size) * weight.get_dtype().itemsize) >= _LARGE
    if large and all(map(_is_memory, _readers(V.graph.current_node))):
        return None
    return _rows(weight, indices)


def _rows(weight: Any, indices: Any) -> Any:
    """The rows, or an error for a bad index: before any loop that threads share."""
    (rows, width), size, shared = weight.get_size(), indices.get_size(), _has_threads()
    load = weight.make_loader()
    if shared:
        indices.realize()  # What is checked is what is used.
        flat = lowerings[_aten.reshape.default](indices, [_product(size)])
        load_zero = check(flat, rows).make_loader()
    load_index = indices.make_loader()

    def element(index: Sequence[Any]) -> Any:
        row = load_index(index[: len(size)])
        if shared:
            row = ops.add(ops.to_dtype(row, torch.int64), load_zero([0]))
        row = ops.indirect_indexing(row, rows, check=not shared, wrap_neg=False)
        return load([row, *index[len(size) :]])

    return Pointwise.create(
        device=weight.get_device(),
        dtype=weight.get_dtype(),
        inner_fn=element,
        ranges=[*size, width],
    )


def _lower_embedding_dense_backward(
    grad_output: Any,
    indices: Any,
    num_weights: Any,
    padding_idx: Any = -1,
    scale_grad_by_freq: bool = False,
) -> Any:
    """Gradients added in the order of the lookups, or None: a call of the operator."""
    dtype, size = grad_output.get_dtype(), indices.get_size()
    if dtype not in _DTYPES or indices.get_dtype() not in _INDEX_DTYPES or scale_grad_by_freq:
        return None
    if grad_output.get_device().type != "cpu" or not _is_number(padding_idx):
        return None
    width, lookups = grad_output.get_size()[-1], _product(size)
    table = num_weights * width * dtype.itemsize
    many = _hint(lookups) > _FEW and _hint(lookups * width) > _FEW_ELEMENTS
    shared = _has_threads()
    if _hint(table) >= _LARGE or (many and shared):
        return None
    if not shared:
        grad_output = _unmade(grad_output)
    reshape = lowerings[_aten.reshape.default]
    rows, indices = reshape(grad_output, [lookups, width]), reshape(indices, [lookups])
    add = add_in_order if shared else add_as_made
    return to_dtype(add(rows, indices, num_weights, int(padding_idx)), dtype)


def _unmade(grad_output: Any) -> Any:
    """A gradient that nothing else reads as what makes it, instead of its buffer.

    Inductor gives operators buffers, and does not fuse loops over (A, B, D) and over (A * B, D).
    """
    node: Any = V.graph.current_node
    source = node.args[0] if node.args else node.kwargs["grad_output"]
    buffer = getattr(grad_output.data, "data", None)
    if not isinstance(buffer, ComputedBuffer) or not isinstance(buffer.data, Pointwise):
        return grad_output
    return TensorBox.create(buffer.data) if len(source.users) == 1 else grad_output


def _lower_embedding_renorm_(weight: Any, *arguments: Any, **options: Any) -> Any:
    """A call of the operator. Its result is the table, or Inductor would copy it to itself."""
    renorm = torch.ops.myemb.embedding_renorm_.default
    call = fallback_handler(renorm, add_to_fallback_set=False)  # type: ignore[no-untyped-call]
    call(weight, *arguments, **options)
    return weight


def _has_threads() -> bool:
    return parallel_num_threads() > 1 or bool(config.cpp.dynamic_threads)


def _hint(size: Any) -> int:
    """A size as far as is known while compiling."""
    return int(V.graph.sizevars.optimization_hint(size, fallback=_LARGE))


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


def _is_memory(reader: torch.fx.Node) -> bool:
    """Whether it reads what was written to memory: Inductor has no kernel that it could be in."""
    packet = getattr(reader.target, "overloadpacket", None)
    return reader.op == "output" or reader.target in needs_realized_inputs or packet in _PRODUCTS
