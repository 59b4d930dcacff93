"""What calls do while ``torch.compile`` traces them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["in_graph"]


def in_graph(operator: Callable[..., Any]) -> Callable[..., Any]:
    """``operator``, as a node of the graph that is being traced; Inductor knows it by then."""
    _prepare_inductor()
    return operator


def _prepare_inductor() -> None:
    from . import _inductor  # not before: it imports the compiler, which takes seconds

    _inductor.register()


# As torch.compiler.assume_constant_result does, which imports the compiler: Dynamo calls the
# function when it traces the call, and leaves nothing of it in the graph.
_prepare_inductor._dynamo_marked_constant = True  # type: ignore[attr-defined]
