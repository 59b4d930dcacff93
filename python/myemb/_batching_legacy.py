"""The batching rules for autograd's own vmap, which is older than ``torch.vmap``.

``torch.autograd.grad(is_grads_batched=True)`` and ``torch.autograd.functional.jacobian`` and
``hessian`` with ``vectorize=True`` go through it. By itself it calls an operator once for each
element, and refuses one that takes or returns lists of tensors.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

__all__ = ["register_legacy"]

_KEY = torch._C._dispatch_key_parse("Batched")
# The outermost, which is the only one there are rules for. How deep a thread is in, PyTorch keeps
# for each, and backward of a GPU's tensors has a thread of its own, which is in none.
_LEVEL = 1


def register_legacy(
    library: torch.library.Library, rules: Mapping[str, Callable[..., Any]]
) -> None:
    """Registers each rule under the name of its operator."""
    for name, rule in rules.items():
        library.impl(name, _kernel(rule), "Batched")  # type: ignore[no-untyped-call]


def _kernel(rule: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(*arguments: Any) -> Any:
        leaves, structure = _pytree.tree_flatten(arguments)
        physical = [_physical(leaf) for leaf in leaves]
        batch_size = next(
            leaf.size(0) for leaf, given in zip(physical, leaves, strict=True) if leaf is not given
        )
        dims = [None if leaf is given else 0 for leaf, given in zip(physical, leaves, strict=True)]
        outputs, output_dims = rule(
            types.SimpleNamespace(batch_size=batch_size),
            _pytree.tree_unflatten(dims, structure),
            *_pytree.tree_unflatten(physical, structure),
        )
        return _pytree.tree_map(_logical, outputs, output_dims)

    return kernel


def _physical(leaf: Any) -> Any:
    """A batched tensor with its batch dimension in front; anything else as it is."""
    if not _is_batched(leaf):
        return leaf
    physical = torch._remove_batch_dim(leaf, _LEVEL, 1, 0)
    if _is_batched(physical):
        raise NotImplementedError("myemb has no rules for batched gradients within another batch")
    return physical


def _logical(output: Any, dim: int | None) -> Any:
    """What a rule has returned as a batched tensor, if it has a batch dimension."""
    return output if dim is None else torch._add_batch_dim(output, dim, _LEVEL)


def _is_batched(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and torch._C._dispatch_keys(leaf).has(_KEY)
