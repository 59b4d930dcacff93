"""What calls do while ``torch.compile`` traces them."""

from __future__ import annotations

__all__ = ["prepare_inductor"]


def prepare_inductor() -> None:
    """Tells Inductor what to make of the operators, before the first is in a graph."""
    from . import _inductor  # not before: it imports the compiler, which takes seconds

    _inductor.register()


# As torch.compiler.assume_constant_result does, which imports the compiler: Dynamo calls the
# function when it traces the call, and leaves nothing of it in the graph.
prepare_inductor._dynamo_marked_constant = True  # type: ignore[attr-defined]
