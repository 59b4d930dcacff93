"""What torch has around autograd: checkpoints, hooks, profilers, subclasses of Tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

import myemb
import myemb.functional as M
from myemb import nn

ROWS, WIDTH = 7, 4
ops = torch.ops.myemb
reentrant = pytest.mark.parametrize("use_reentrant", [False, True])


class Model(torch.nn.Module):
    """Both modules of ``library``, torch.nn or myemb.nn, from the same seed."""

    def __init__(self, library: Any, device: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lookup = library.Embedding(ROWS, WIDTH, device=device, **options)
        self.bags = library.EmbeddingBag(ROWS, WIDTH, device=device, **options)

    def forward(self, rows: Tensor, offset: Tensor) -> Tensor:
        output: Tensor = self.lookup(rows).sum(1) * self.bags(rows) + offset
        return output


def batch(device: str) -> tuple[Tensor, Tensor]:
    """The indices, and a tensor that wants a gradient, without which nothing is recomputed."""
    torch.manual_seed(1)
    offset = torch.zeros(1, device=device, requires_grad=True)
    return torch.randint(ROWS, (3, 2), device=device), offset


@reentrant
@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("sparse", [False, True])
def test_checkpoints_give_pytorchs_gradients(
    use_reentrant: bool, max_norm: float | None, sparse: bool, device: str
) -> None:
    """With max_norm the recomputation renorms again."""
    results = []
    for library in (nn, torch.nn):
        model = Model(library, device, max_norm=max_norm, sparse=sparse)
        output: Any = checkpoint(model, *batch(device), use_reentrant=use_reentrant)
        output.square().sum().backward()
        weights = [model.lookup.weight, model.bags.weight]
        results.append([output, *weights, *(weight.grad.to_dense() for weight in weights)])
    torch.testing.assert_close(results[0], results[1])


@reentrant
def test_checkpointed_tables_are_updated_once(use_reentrant: bool, device: str) -> None:
    updated = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        tables = [nn.Table(ROWS, 3, name="a", max_norm=1.0), nn.Table(5, 2, mode="max", name="b")]
        collection = nn.EmbeddingBagCollection(tables).to(device)
        single = nn.EmbeddingBag(ROWS, 5, device=device)
        model = torch.nn.ModuleList([collection, single])
        optimizer = myemb.optim.Adagrad(model.parameters(), lr=0.5)
        myemb.optim.fuse_in_backward(optimizer, model)
        rows, offset = batch(device)

        def call(offset: Tensor, both: Any = (collection, single), rows: Tensor = rows) -> Tensor:
            output: Tensor = both[0]({"a": rows, "b": rows.clamp(max=4)}) * both[1](rows) + offset
            return output

        output: Any = call(offset)
        if checkpointed:
            output = checkpoint(call, offset, use_reentrant=use_reentrant)
        output.square().sum().backward()
        updated.append([parameter.detach() for parameter in model.parameters()])
    for once, again in zip(*updated, strict=True):
        assert torch.equal(once, again)


class Calls(TorchDispatchMode):
    """Notes the operators of this library that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "myemb":
            self.names.append(func.name().removeprefix("myemb::"))
        return func(*args, **(kwargs or {}))


def test_selective_checkpoints_name_operators(device: str) -> None:
    model, arguments = Model(nn, device), batch(device)
    kept = [ops.embedding.default, ops.embedding_bag.default]
    runs = {}
    for name, policy in {"all": [], "some": kept[:1], "none": kept}.items():
        context = functools.partial(create_selective_checkpoint_contexts, policy)
        with Calls() as calls:
            output: Any = checkpoint(model, *arguments, use_reentrant=False, context_fn=context)
            output.square().sum().backward()
        runs[name] = (calls.names.count("embedding"), calls.names.count("embedding_bag"))
    assert runs == {"all": (2, 2), "some": (1, 2), "none": (1, 1)}


def test_saved_tensors_go_to_the_cpu_and_come_back(device: str) -> None:
    model, (rows, offset) = Model(nn, device), batch(device)
    with torch.autograd.graph.save_on_cpu():
        output = model(rows, offset)
    upstream = torch.randn_like(output)
    actual = torch.autograd.grad(output, tuple(model.parameters()), upstream)
    expected = torch.autograd.grad(model(rows, offset), tuple(model.parameters()), upstream)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.filterwarnings("ignore:Error detected in Embedding")
def test_anomaly_mode_names_the_node(device: str) -> None:
    rows, _ = batch(device)
    weight = torch.randn(ROWS, WIDTH, device=device, requires_grad=True)
    for function, name in ((M.embedding, "EmbeddingBackward"), (M.embedding_bag, "EmbeddingBag")):
        with torch.autograd.detect_anomaly():
            output = function(rows, weight)
            output.backward(torch.ones_like(output))
            output = function(rows, weight)
            with pytest.raises(RuntimeError, match=f"Function '{name}.*' returned nan values"):
                output.backward(torch.full_like(output, float("nan")))


def test_hooks_for_several_gradients(device: str) -> None:
    model, arguments = Model(nn, device), batch(device)
    seen: list[Any] = []
    weights = tuple(model.parameters())
    with torch.autograd.graph.register_multi_grad_hook(weights, seen.append):
        model(*arguments).square().sum().backward()
    assert len(seen) == 1
    for gradient, weight in zip(seen[0], weights, strict=True):
        assert torch.equal(gradient, weight.grad)


def test_profiler_and_flop_counter(device: str) -> None:
    model, arguments = Model(nn, device), batch(device)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        model(*arguments).square().sum().backward()
    events = {event.key: event for event in profiled.key_averages(group_by_input_shape=True)}
    assert {"myemb::embedding", "myemb::embedding_bag", "EmbeddingBagBackward"} <= set(events)
    assert {"myemb::embedding_dense_backward", "myemb::embedding_bag_dense_backward"} <= set(events)
    assert events["myemb::embedding"].input_shapes[:2] == [[ROWS, WIDTH], [3, 2]]
    flops = []
    for library in (nn, torch.nn):
        with FlopCounterMode(display=False) as counter:
            Model(library, device)(*arguments).square().sum().backward()
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1]


class Named(Tensor):
    """A subclass that only keeps its class, as most do."""


FUNCTIONS: list[Callable[..., Tensor]] = [M.embedding, M.embedding_bag]
functions = pytest.mark.parametrize("function", FUNCTIONS)


@functions
def test_a_subclass_of_tensor_is_kept(function: Callable[..., Tensor], device: str) -> None:
    rows, _ = batch(device)
    weight = torch.randn(ROWS, WIDTH, device=device)
    original = getattr(torch.nn.functional, function.__name__)
    for table, lookups in ((weight.as_subclass(Named), rows), (weight, rows.as_subclass(Named))):
        output = function(lookups, table)
        assert type(output) is type(original(lookups, table)) is Named
    parameter = torch.nn.Parameter(weight.as_subclass(Named))
    function(rows, parameter).sum().backward()
    assert parameter.grad is not None


@functions
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_a_wrapper_subclass_is_kept(
    function: Callable[..., Tensor], max_norm: float | None, device: str
) -> None:
    """It takes the operators apart in __torch_dispatch__, backward ones too."""
    rows, _ = batch(device)
    plain = torch.randn(ROWS, WIDTH, device=device)
    halves = (plain.clone(), plain.clone())
    wrapper = TwoTensor(*halves).requires_grad_()  # type: ignore[no-untyped-call]
    output: Any = function(rows, wrapper, max_norm=max_norm)
    leaf = plain.requires_grad_()
    expected = function(rows, leaf, max_norm=max_norm)
    upstream = torch.randn_like(expected)
    output.backward(TwoTensor(upstream.clone(), upstream.clone()))  # type: ignore[no-untyped-call]
    expected.backward(upstream)
    gradient: Any = wrapper.grad
    assert type(output) is TwoTensor and type(gradient) is TwoTensor
    for half in (output.a, output.b):
        assert torch.equal(half, expected)
    for half in halves:
        assert torch.equal(half, plain)  # both are renormed
    assert leaf.grad is not None
    for half in (gradient.a, gradient.b):
        assert torch.equal(half, leaf.grad)


def gradient_of_everything(first: Tensor, second: Tensor, rows: Tensor, starts: Tensor) -> Any:
    """First and second derivatives of lookups, bags and tables."""
    leaves = [leaf.detach().requires_grad_() for leaf in (first, second)]
    outputs = [
        M.embedding(rows, leaves[0]),
        M.embedding_bag(rows.view(2, -1), leaves[0], mode="max"),
        M.embedding_bag_tables(rows, leaves, starts, mode=["mean", "max"]),
    ]
    total = torch.stack([output.pow(3).sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, leaves, create_graph=True)
    return torch.autograd.grad([gradient.pow(2).sum() for gradient in gradients], leaves)


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_graphs_of_derivatives(tracing_mode: str, device: str) -> None:
    def arguments(lookups: int) -> tuple[Tensor, ...]:
        starts = torch.tensor([0, 2, lookups - 3, lookups - 1, lookups], device=device)
        tables = [torch.randn(ROWS, width, dtype=torch.float64, device=device) for width in (3, 2)]
        return *tables, torch.randint(ROWS, (lookups,), device=device), starts

    graph = make_fx(gradient_of_everything, tracing_mode=tracing_mode)(*arguments(8))
    nodes = {str(node.target) for node in graph.graph.nodes}
    assert {"myemb.embedding_dense_backward.default", "myemb.embedding_bag_max.default"} <= nodes
    other = arguments(10 if tracing_mode == "symbolic" else 8)
    torch.testing.assert_close(graph(*other), gradient_of_everything(*other))


def test_functionalize(device: str) -> None:
    """torch.func's own: it knows ATen's operations in place, and says that it knows no others."""
    rows, _ = batch(device)
    weight = torch.randn(ROWS, WIDTH, device=device)

    def call(weight: Tensor, max_norm: float | None = None) -> Tensor:
        return M.embedding(rows, weight, max_norm=max_norm).sum(1) + M.embedding_bag(rows, weight)

    assert torch.equal(functionalize(call)(weight), call(weight))
    with pytest.raises(RuntimeError, match="operator whose output has alias annotations"):
        functionalize(call)(weight, 0.5)
    graph = make_fx(functionalize(lambda weight: call(weight)))(weight)
    assert torch.equal(graph(weight), call(weight))
