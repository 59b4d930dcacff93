"""Swapping the embedding modules of an existing model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.nn.utils import parametrize

from . import nn

__all__ = ["replace_embeddings_", "restore_embeddings_"]

Model = TypeVar("Model", bound=torch.nn.Module)

_REPLACEMENTS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Embedding: nn.Embedding,
    torch.nn.EmbeddingBag: nn.EmbeddingBag,
}


def replace_embeddings_(model: Model) -> Model:
    """Makes every embedding module of ``model`` compute with this library, in place.

    Only the class of a module changes. The module object, its parameters, buffers, hooks, training
    flag, tied weights and names stay what they are, so optimizers, ``state_dict`` and references
    from elsewhere go on working, and ``isinstance(module, torch.nn.Embedding)`` stays true.
    ``model`` itself may be such a module, and a module that occurs several times is swapped once.
    A second call changes nothing.

    A subclass that inherits ``forward`` from PyTorch keeps being an instance of its own class as
    well. A subclass, or an instance, with a ``forward`` of its own is left alone: what it computes
    is its author's business. Parametrised modules (``torch.nn.utils.parametrize``) are swapped and
    can still be unparametrised.

    Args:
        model: Any module.

    Returns:
        ``model``.
    """
    for module in model.modules():
        if "forward" in module.__dict__:
            continue
        replacement = _replacement(type(module))
        if replacement is not None:
            module.__class__ = replacement
    return model


def restore_embeddings_(model: Model) -> Model:
    """Undoes :func:`replace_embeddings_`: every module computes with PyTorch again, in place.

    Modules that were made by this library become PyTorch's, too. For tools that look for the very
    class ``torch.nn.Embedding``, as ``torch.ao.quantization`` and ``torch.jit.script`` do.

    Args:
        model: Any module.

    Returns:
        ``model``.
    """
    for module in model.modules():
        original = _original(type(module))
        if original is not None:
            module.__class__ = original
    return model


def _original(cls: type[Any]) -> type[Any] | None:
    """What ``cls`` was before; None if it is not a class that computes with this library."""
    for original, ours in _REPLACEMENTS.items():
        if cls is ours:
            return original
    if vars(cls).get("__reduce_ex__") is _reduce_derived:
        base: type[Any] = cls.__bases__[0]
        return base
    if _is_parametrised(cls) and any(map(_original, cls.__bases__)):
        return _parametrised(cls, _original)
    return None


def _replacement(cls: type[Any]) -> type[Any] | None:
    """What ``cls`` becomes; None if it is no embedding or has a ``forward`` of its own."""
    for original, ours in _REPLACEMENTS.items():
        if cls is original:
            return ours
        if issubclass(cls, original) and cls.forward is original.forward:
            return (
                _parametrised(cls, _replacement) if _is_parametrised(cls) else _derived(cls, ours)
            )
    return None


def _is_parametrised(cls: type[Any]) -> bool:
    # parametrize makes a class of its own for each module, and unparametrising goes back to its
    # first base.
    return cls.__module__ == parametrize.__name__ and cls.__name__.startswith("Parametrized")


def _parametrised(cls: type[Any], other: Callable[[type[Any]], type[Any] | None]) -> type[Any]:
    """A copy of a class that ``parametrize`` made, over the other class of its base."""
    namespace = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    bases = tuple(other(base) or base for base in cls.__bases__)
    return type(cls.__name__, bases, namespace)


def _derived(cls: type[Any], ours: type[Any]) -> type[Any]:
    """``cls`` with the ``forward`` of ``ours``, named like ``cls`` and pickled by way of it."""
    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": _reduce_derived,
    }
    return type(cls.__name__, (cls, ours), namespace)


def _reduce_derived(self: torch.nn.Module, protocol: int) -> tuple[Any, ...]:
    # No import finds the derived class: rebuild it from the class that an import does find.
    get_state: Callable[[], Any] | None = getattr(self, "__getstate__", None)
    state = self.__dict__ if get_state is None else get_state()
    return _new_derived, (type(self).__bases__[0],), state


def _new_derived(cls: type[Any]) -> torch.nn.Module:
    replacement = _replacement(cls) or cls
    module: torch.nn.Module = object.__new__(replacement)
    return module
