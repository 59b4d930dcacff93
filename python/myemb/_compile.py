"""What calls do while ``torch.compile`` traces them."""

from __future__ import annotations

__all__ = ["prepare_compiler"]


def prepare_compiler() -> None:
    """Tells Dynamo and Inductor what to make of the operators, before the first is in a graph."""
    from . import _dynamo, _inductor  # not before: they import the compiler, which takes seconds

    _inductor.register()
    _dynamo.register()


# As torch.compiler.assume_constant_result does, which imports the compiler: Dynamo calls the
# function when it traces the call, and leaves nothing of it in the graph.
prepare_compiler._dynamo_marked_constant = True  # type: ignore[attr-defined]
