"""What the nodes of the autograd graph keep, refuse and pass on: the contract of PyTorch's own."""

from __future__ import annotations

import threading

import pytest
import torch
from inputs import MODES
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch.autograd.graph import node_creation_hook, saved_tensors_hooks

from myemb.functional import embedding, embedding_bag

CALLS = ["lookup", "sparse lookup", "bag", "sparse bag", *MODES]
calls = pytest.mark.parametrize("call", CALLS)


class Call:
    """A call that wants gradients, of the table and in a mode of embedding_bag of the weights."""

    def __init__(self, name: str, device: str, dtype: torch.dtype = torch.float64) -> None:
        self.name = name
        self.weight = torch.randn(6, 3, dtype=dtype, device=device, requires_grad=True)
        self.indices = torch.tensor([4, 1, 1, 5], device=device)
        self.offsets = torch.tensor([0, 3], device=device)
        self.factors = torch.rand(4, dtype=dtype, device=device, requires_grad=True)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return (self.weight, self.factors) if self.name in MODES else (self.weight,)

    def __call__(self) -> Tensor:
        sparse = self.name.startswith("sparse")
        if self.name.endswith("lookup"):
            return embedding(self.indices, self.weight, sparse=sparse)
        if self.name.endswith("bag"):
            return embedding_bag(self.indices, self.weight, self.offsets, sparse=sparse)
        weights = self.factors
        return embedding_bag(
            self.indices, self.weight, self.offsets, mode=self.name, per_sample_weights=weights
        )

    def gradients(self) -> list[Tensor]:
        return [dense(gradient) for gradient in torch.autograd.grad(self().sum(), self.leaves)]


def dense(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_sparse else tensor


def derivative(call: Call, order: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A scalar and its leaves. Only the nodes of the call, or of its gradient, save tensors."""
    output = call()
    if order == 1:
        return output.sum(), call.leaves
    upstream = torch.rand_like(output, requires_grad=True)
    gradients = torch.autograd.grad(output, call.leaves, upstream, create_graph=True)
    return torch.stack([each.sum() for each in gradients]).sum(), (*call.leaves, upstream)


# The second derivatives of a sparse gradient are ATen's.
orders = pytest.mark.parametrize(
    "call, order", [(call, 1) for call in CALLS] + [(call, 2) for call in ("lookup", "bag", *MODES)]
)


@calls
def test_the_output_is_a_node_of_the_graph(call: str, device: str) -> None:
    made = Call(call, device)
    output = made()
    assert output.requires_grad and not output.is_leaf and output.grad_fn is not None
    assert output.grad_fn.name() == (
        "EmbeddingBackward" if call.endswith("lookup") else "EmbeddingBagBackward"
    )
    edges = output.grad_fn.next_functions
    assert [getattr(node, "variable", None) for node, _ in edges if node] == list(made.leaves)


@calls
def test_hooks_of_node_creation_see_a_complete_node(call: str, device: str) -> None:
    made = Call(call, device)
    seen: list[tuple[str, int]] = []
    with node_creation_hook(lambda node: seen.append((node.name(), len(node.next_functions)))):
        output = made()
    assert output.grad_fn is not None
    assert (output.grad_fn.name(), len(output.grad_fn.next_functions)) in seen


@calls
def test_nothing_is_recorded_where_nobody_may_ask(call: str, device: str) -> None:
    made = Call(call, device)
    with torch.no_grad():
        assert not made().requires_grad
    with torch.inference_mode():
        output = made()
    assert output.is_inference() and not output.requires_grad
    for leaf in made.leaves:
        leaf.requires_grad_(False)
    assert made().grad_fn is None


@orders
def test_a_second_backward_needs_retain_graph(call: str, order: int, device: str) -> None:
    output, leaves = derivative(Call(call, device), order)

    def gradients(retain_graph: bool) -> list[Tensor | None]:
        found = torch.autograd.grad(
            output, leaves, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
        )
        return [dense(gradient) for gradient in found]

    torch.testing.assert_close(gradients(True), gradients(False), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        gradients(False)


@calls
@pytest.mark.parametrize("name", ["indices", "offsets", "factors", "weight"])
def test_what_backward_needs_must_not_change_in_place(call: str, name: str, device: str) -> None:
    made = Call(call, device)
    output = made().sum()
    with torch.no_grad():
        getattr(made, name).add_(0)
    weighted = call in MODES  # only the gradient of the weights needs the table and the weights
    needed = {"indices": True, "offsets": not call.endswith("lookup")}.get(name, weighted)
    if needed:
        with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
            output.backward()
    else:
        output.backward()


def test_a_table_may_be_updated_between_two_backwards(device: str) -> None:
    """Only the gradient of per_sample_weights reads the table."""
    made = Call("sum", device)
    made.factors.requires_grad_(False)
    output = made().sum()
    with torch.no_grad():
        made.weight.mul_(2)
    output.backward()
    assert made.weight.grad is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asked", ["weight", "factors"])
def test_only_what_is_asked_for_is_computed(mode: str, asked: str, device: str) -> None:
    made = Call(mode, device)
    expected = dict(zip(["weight", "factors"], made.gradients(), strict=True))
    found: list[tuple[Tensor | None, ...]] = []
    output = made()
    assert output.grad_fn is not None
    output.grad_fn.register_hook(lambda inputs, _outputs: found.append(inputs))
    (gradient,) = torch.autograd.grad(output.sum(), getattr(made, asked))
    assert torch.equal(gradient, expected[asked])
    assert [each is not None for each in found[0]] == [asked == "weight", asked == "factors"]


@calls
def test_an_undefined_gradient_stays_undefined(call: str, device: str) -> None:
    class Undefined(torch.autograd.Function):
        @staticmethod
        def forward(_context: object, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(_context: object, _gradient: Tensor) -> None:  # type: ignore[override]
            return None

    made = Call(call, device)
    Undefined.apply(made()).sum().backward()  # type: ignore[no-untyped-call]
    assert all(leaf.grad is None for leaf in made.leaves)


@calls
def test_hooks_of_tensors_and_nodes_run(call: str, device: str) -> None:
    made = Call(call, device)
    expected = made.gradients()
    output, seen = made(), []
    output.retain_grad()
    output.register_hook(lambda gradient: 2 * gradient)
    assert output.grad_fn is not None
    output.grad_fn.register_prehook(lambda gradients: seen.append("before"))
    output.grad_fn.register_hook(lambda _inputs, _outputs: seen.append("after"))
    output.sum().backward()
    assert seen == ["before", "after"]
    assert output.grad is not None and torch.equal(output.grad, torch.full_like(output, 2))
    for leaf, gradient in zip(made.leaves, expected, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(dense(leaf.grad), 2 * gradient)


@calls
def test_hooks_of_saved_tensors_pack_and_unpack(call: str, device: str) -> None:
    made, packed, unpacked = Call(call, device), [], []
    expected = made.gradients()

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor.clone()

    def unpack(tensor: Tensor) -> Tensor:
        unpacked.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, unpack):
        output = made()
    assert any(tensor is made.indices for tensor in packed)
    with torch.no_grad():
        made.indices.zero_()  # backward reads the copy
    gradients = torch.autograd.grad(output.sum(), made.leaves)
    assert len(unpacked) == len(packed)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert torch.equal(dense(gradient), wanted)


@calls
def test_threads_share_a_graph(call: str, device: str) -> None:
    made = Call(call, device)
    expected, output = made.gradients(), made().sum()
    failures: list[object] = []

    def work() -> None:
        try:
            for _ in range(20):
                gradients = torch.autograd.grad(output, made.leaves, retain_graph=True)
                for gradient, wanted in zip(gradients, expected, strict=True):
                    assert torch.equal(dense(gradient), wanted)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@orders
def test_compiled_autograd(call: str, order: int, device: str) -> None:
    def compile_eagerly(graph: torch.fx.GraphModule) -> object:
        return torch.compile(graph, backend="eager")

    made = Call(call, device)
    for _ in range(2):  # recorded, then found in the cache
        output, leaves = derivative(made, order)
        expected = torch.autograd.grad(output, leaves, retain_graph=True, allow_unused=True)
        for leaf in leaves:
            leaf.grad = None
        with compiled_autograd._enable(compile_eagerly):
            output.backward()
        assert any(gradient is not None for gradient in expected)
        for leaf, gradient in zip(leaves, expected, strict=True):
            assert (leaf.grad is None) == (gradient is None)
            if leaf.grad is not None:
                torch.testing.assert_close(dense(leaf.grad), dense(gradient))


def test_a_refused_type_leaves_no_trace(device: str) -> None:
    complex_table = torch.randn(4, 2, dtype=torch.complex64, device=device, requires_grad=True)
    indices = torch.tensor([1, 2], device=device)
    with pytest.raises(NotImplementedError, match="complex dtype"):
        embedding(indices, complex_table)
    with torch.no_grad():
        rows = embedding(indices, complex_table)
    assert torch.equal(rows, complex_table.detach()[indices])


@pytest.mark.parametrize("position", range(5))
def test_the_entry_refuses_other_types(position: int) -> None:
    from myemb import _C

    arguments: list[object] = [torch.randn(3, 2), torch.tensor([1]), -1, False, False]
    arguments[position] = "text"
    with pytest.raises(TypeError, match=f"argument {position + 1} cannot be of type str"):
        _C.embedding(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected 5 positional arguments, but got 2"):
        _C.embedding(torch.randn(3, 2), torch.tensor([1]))  # type: ignore[call-arg]
