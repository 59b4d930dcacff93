"""What Dynamo looks at before each run of a graph: no more than for torch.nn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.decorators import _unregister_substitute_in_graph

import myemb
from myemb import _dynamo
from myemb.functional import embedding

pytestmark = pytest.mark.usefixtures("fresh_compiler")
WIDTH = 4
OPTIONS: list[dict[str, Any]] = [{}, {"padding_idx": 2}, {"sparse": True, "padding_idx": -1}]


def guards(model: Callable[..., Tensor], *inputs: Tensor) -> list[str]:
    """Those of the model's only graph."""
    found: list[list[str]] = []

    def look(entries: Sequence[Any]) -> list[bool]:
        found.append([f"{entry.guard_type} {entry.name}" for entry in entries])
        return [True] * len(entries)

    options = {"guard_filter_fn": look}
    compiled = torch.compile(model, fullgraph=True, backend="eager", options=options)
    torch.testing.assert_close(compiled(*inputs), model(*inputs))
    (graph,) = found
    return graph


@pytest.mark.parametrize("options", OPTIONS)
def test_a_module_has_no_more_guards_than_torchs(options: dict[str, Any]) -> None:
    rows, counts = torch.randint(9, (5, 3)), []
    for library in (myemb.nn, torch.nn):
        model = torch.nn.Sequential(library.Embedding(9, WIDTH, **options), torch.nn.ReLU())
        counts.append(len(guards(model, rows)))
    ours, theirs = counts
    assert ours <= theirs


@pytest.mark.parametrize("options", OPTIONS)
def test_a_call_has_no_more_guards_than_torchs(options: dict[str, Any]) -> None:
    """In the first graph of a process, too: Dynamo begins again when it has learnt."""
    if _dynamo._registered:
        _unregister_substitute_in_graph(embedding)
        _dynamo._registered = False
    rows, table = torch.randint(9, (5, 3)), torch.randn(9, WIDTH)
    counts = []
    for library in (myemb.functional, torch.nn.functional):

        def model(rows: Tensor, table: Tensor, lookup: Any = library.embedding) -> Tensor:
            result: Tensor = lookup(rows, table, **options)
            return result

        counts.append(len(guards(model, rows, table)))
    ours, theirs = counts
    assert ours <= theirs


def test_subclasses_of_tensors_are_kept() -> None:
    class Named(torch.Tensor):
        """Results are of this class, too."""

    rows, table = torch.randint(9, (5, 3)), torch.randn(9, WIDTH).as_subclass(Named)
    compiled = torch.compile(lambda: embedding(rows, table, -1), fullgraph=True, backend="eager")
    found = compiled()
    assert type(found) is Named and torch.equal(found, embedding(rows, table))
