"""torch.compile and torch.export: one graph, the same results and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from inputs import MODES
from simulator import fatal_on_a_gpu, refused
from torch import Tensor

from myemb import nn
from myemb.functional import embedding, embedding_bag, embedding_renorm_

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


def check(function: Callable[..., Tensor], *arguments: Tensor, **options: Any) -> None:
    """Output, gradients and changed arguments of the compiled function and of the plain one."""
    results = []
    for called in (function, compiled(function, **options)):
        leaves = [
            each.clone().requires_grad_() if each.is_floating_point() else each
            for each in arguments
        ]
        output = called(*leaves)
        torch.manual_seed(5)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = torch.autograd.grad(output, wanted, torch.randn_like(output))
        results.append([output, *leaves, *(gradient.to_dense() for gradient in gradients)])
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": -1, "scale_grad_by_freq": True},
        {"max_norm": 0.5},
        {"max_norm": 0.5, "norm_type": 1.0, "padding_idx": 1},
        {"sparse": True},
    ],
)
def test_embedding(options: dict[str, Any], device: str) -> None:
    lookups = torch.tensor([[1, 5, 2], [2, 2, 0]], device=device)
    check(lambda i, w: embedding(i, w, **options), lookups, torch.randn(6, 3, device=device))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["matrix", "offsets", "last"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_embedding_bag(
    mode: str, form: str, weighted: bool, max_norm: float | None, device: str
) -> None:
    lookups = torch.tensor([1, 5, 2, 2, 2, 0], device=device)
    starts = None
    if form == "matrix":
        lookups = lookups.view(3, 2)
    else:
        starts = torch.tensor([0, 4, 4, 6] if form == "last" else [0, 4, 4], device=device)
    factors = [torch.rand(lookups.shape, device=device)] if weighted and max_norm is None else []

    def function(lookups: Tensor, weight: Tensor, factors: Tensor | None = None) -> Tensor:
        return embedding_bag(
            lookups,
            weight,
            starts,
            mode=mode,
            max_norm=max_norm,
            per_sample_weights=factors,
            include_last_offset=form == "last",
            padding_idx=0,
        )

    check(function, lookups, torch.randn(6, 3, device=device), *factors)


def test_modules_in_a_model(device: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(6, 3, padding_idx=0, max_norm=1.0)
            self.bags = nn.EmbeddingBag(6, 3, mode="sum")

        def forward(self, rows: Tensor) -> Tensor:
            return self.words(rows).sum(1) + self.bags(rows)

    torch.manual_seed(1)
    plain = Model().to(device)
    torch.manual_seed(1)
    other = Model().to(device)
    rows = torch.tensor([[1, 5, 0], [2, 2, 4]], device=device)
    output, expected = compiled(other)(rows), plain(rows)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream)
    for ours, theirs in zip(other.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_dynamic_shapes_compile_once(device: str) -> None:
    graphs = 0

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    function = torch.compile(
        lambda i, w: embedding(i, w, padding_idx=-1).sum(1) + embedding_bag(i, w, padding_idx=-1),
        fullgraph=True,
        dynamic=True,
        backend=backend,
    )
    for rows, bags, length in ((6, 3, 4), (9, 5, 2), (20, 7, 6)):  # no two sizes are equal
        weight = torch.randn(rows, 11, device=device)
        lookups = torch.randint(rows, (bags, length), device=device)
        expected = embedding(lookups, weight).sum(1) + embedding_bag(
            lookups, weight, padding_idx=-1
        )
        torch.testing.assert_close(function(lookups, weight), expected)
    assert graphs == 1


def test_the_graph_names_our_operators(device: str) -> None:
    targets: set[str] = set()

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        targets.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(lambda i, w: embedding(i, w, max_norm=1.0), fullgraph=True, backend=backend)(
        torch.tensor([1], device=device), torch.randn(3, 2, device=device)
    )
    assert {"myemb.embedding.default", "myemb.embedding_renorm_.default"} <= targets


def test_renorm(device: str) -> None:
    weight = torch.randn(5, 3, device=device) * 3
    expected = embedding_renorm_(weight.clone(), torch.tensor([1, 4], device=device), 1.0)
    compiled(embedding_renorm_)(weight, torch.tensor([1, 4], device=device), 1.0)
    assert torch.equal(weight, expected)


@fatal_on_a_gpu
def test_bad_input_is_refused_in_a_graph_too(device: str) -> None:
    weight, lookups = torch.ones(3, 2, device=device), torch.tensor([0, 3], device=device)
    with refused(IndexError, "index out of range in self", "index out of range"):
        compiled(embedding)(lookups, weight)
    with pytest.raises(Exception, match="mode has to be one of sum, mean or max"):
        compiled(lambda i, w: embedding_bag(i, w, mode="min"))(lookups.view(1, 2), weight)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool, device: str) -> None:
    model = nn.EmbeddingBag(6, 3, padding_idx=0, device=device)
    rows = torch.tensor([[1, 5, 0], [2, 2, 4]], device=device)
    dynamic = {"input": {0: torch.export.Dim("bags", min=2)}}
    program = torch.export.export(model, (rows,), dynamic_shapes=dynamic, strict=strict)
    more = torch.cat([rows, rows])
    torch.testing.assert_close(program.module()(more), model(more))
