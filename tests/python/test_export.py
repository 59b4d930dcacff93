"""Programs of torch.export, torch.fx, ONNX and TorchScript, and tools for torch.nn's classes."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import onnxruntime
import pytest
import torch
from inputs import MODES
from torch import Tensor
from torch.export import Dim, ExportedProgram

import myemb
from myemb.nn import EmbeddingBagCollection, Table

pytestmark = pytest.mark.devices("cpu", why="what is exported names no device")
AUTO = Dim.AUTO
ROWS = 10


class Bags(torch.nn.Module):
    """A lookup and bags."""

    def __init__(self, library: Any = myemb.nn, mode: str = "mean") -> None:
        super().__init__()
        torch.manual_seed(4)
        self.words = library.Embedding(ROWS, 4, padding_idx=0)
        self.bags = library.EmbeddingBag(ROWS, 4, mode=mode, padding_idx=1)

    def forward(self, lookups: Tensor, starts: Tensor, weights: Tensor | None = None) -> Any:
        return self.words(lookups), self.bags(lookups, starts, weights)


SMALL = (torch.arange(7) % ROWS, torch.tensor([0, 2, 2]))
LARGE = (torch.arange(23) % ROWS, torch.tensor([0, 0, 5, 6, 19, 23]))


def weighted(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return (*batch, torch.rand(batch[0].numel()))


def exported(model: torch.nn.Module, batch: tuple[Tensor, ...]) -> ExportedProgram:
    return torch.export.export(model, batch, dynamic_shapes=tuple({0: AUTO} for _ in batch))


def in_aten(program: ExportedProgram) -> ExportedProgram:
    table = torch.export.default_decompositions() | myemb.decomposition_table
    return program.run_decompositions(table)


def operators(program: ExportedProgram) -> set[str]:
    return {str(n.target) for n in program.graph.nodes if n.op == "call_function"}


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(tuple(found), tuple(expected))


def test_a_program_is_saved_loaded_and_run(device: str) -> None:
    model, batch = Bags(), weighted(LARGE)
    file = io.BytesIO()
    torch.export.save(exported(model, weighted(SMALL)), file)
    file.seek(0)
    program = torch.export.load(file)
    assert {"myemb.embedding.default", "myemb.embedding_bag.default"} <= operators(program)
    assert_same(program.module()(*batch), model(*batch))


@pytest.mark.parametrize("mode", MODES)
def test_decompositions(mode: str, device: str) -> None:
    model, batch = Bags(mode=mode), weighted(LARGE)
    program = in_aten(exported(model, weighted(SMALL)))
    assert not any(name.startswith("myemb") for name in operators(program))
    assert_same(program.module()(*batch), model(*batch))


def test_decompositions_of_gradients(device: str) -> None:
    """Of a graph with its backward pass, against torch.nn's gradients."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def gradients(weight: Tensor, weights: Tensor, upstream: Tensor, library: Any) -> Any:
        leaves = [each.detach().requires_grad_() for each in (weight, weights)]
        words = library.embedding(LARGE[0], leaves[0], 0, scale_grad_by_freq=True)
        bags = library.embedding_bag(
            LARGE[0], leaves[0], LARGE[1], mode="sum", per_sample_weights=leaves[1], padding_idx=1
        )
        return torch.autograd.grad(words.sum(0) * bags, leaves, upstream)

    arguments = torch.randn(ROWS, 4), torch.rand(23), torch.randn(6, 4)
    graph = make_fx(
        lambda *a: gradients(*a, myemb.functional), decomposition_table=myemb.decomposition_table
    )(*arguments)
    assert not any("myemb" in str(node.target) for node in graph.graph.nodes)
    assert_same(graph(*arguments), gradients(*arguments, torch.nn.functional))


class Tables(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        tables = [
            Table(ROWS, 4, features=["a", "b"], padding_idx=0),
            Table(5, 3, mode="max"),
            Table(5, 2, mode="sum"),
        ]
        self.tables = EmbeddingBagCollection(tables)

    def forward(self, lookups: Tensor, starts: Tensor) -> tuple[Tensor]:
        return (self.tables(lookups, starts),)


FEW = (torch.arange(12) % 5, torch.tensor([0, 3, 5, 5, 6, 9, 10, 11, 12]))
MORE = (torch.arange(20) % 5, torch.tensor([0, 3, 5, 5, 6, 9, 12, 13, 15, 16, 16, 19, 20]))


def test_decompositions_of_many_tables(device: str) -> None:
    model = Tables()
    program = in_aten(exported(model, FEW))
    assert not any(name.startswith("myemb") for name in operators(program))
    assert_same(program.module()(*MORE), model(*MORE))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(
    "model, batch, more",
    [
        (Bags(mode="sum"), weighted(SMALL), weighted(LARGE)),
        (Bags(mode="mean"), weighted(SMALL), weighted(LARGE)),
        (Bags(mode="max"), SMALL, LARGE),
        (Tables(), FEW, MORE),
    ],
    ids=["sum", "mean", "max", "tables"],
)
def test_onnx(
    model: torch.nn.Module, batch: tuple[Tensor, ...], more: tuple[Tensor, ...], device: str
) -> None:
    model.eval()
    program = torch.onnx.export(in_aten(exported(model, batch)), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [node.name for node in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, more, strict=True)}
    found = [torch.from_numpy(array) for array in session.run(None, feed)]
    assert_same(found, [each.detach() for each in model(*more)])


def test_fx(device: str) -> None:
    """The functions are nodes, with the tables among their arguments."""
    model = Bags()
    graph = torch.fx.symbolic_trace(model)
    called = {node.target for node in graph.graph.nodes if node.op == "call_function"}
    assert called == {myemb.functional.embedding, myemb.functional.embedding_bag}
    again = pickle.loads(pickle.dumps(graph))
    batch = weighted(LARGE)
    assert_same(again(*batch), model(*batch))


@pytest.fixture
def quiet() -> Iterator[None]:
    """TorchScript and torch.ao.quantization are deprecated, but people have programs of theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_torchscript_traces(quiet: None, device: str) -> None:
    model = Bags()
    traced = torch.jit.trace(model, weighted(SMALL))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    batch = weighted(LARGE)
    assert_same(torch.jit.load(file)(*batch), model(*batch))


def test_torchscript_scripts_restored_models(quiet: None, device: str) -> None:
    model = Bags().bags
    with pytest.raises(Exception, match="has no attribute '_parameters'"):
        torch.jit.script(model)
    expected = model(*LARGE)
    scripted = torch.jit.script(myemb.restore_embeddings_(model))
    torch.testing.assert_close(scripted(*LARGE), expected)


def test_quantisation_of_restored_models(quiet: None, device: str) -> None:
    quantization = torch.ao.quantization
    results = []
    for library in (torch.nn, myemb.nn):
        model = myemb.restore_embeddings_(torch.nn.Sequential(library.EmbeddingBag(ROWS, 16)))
        torch.nn.init.uniform_(model[0].weight, generator=torch.Generator().manual_seed(1))
        config = {torch.nn.EmbeddingBag: quantization.float_qparams_weight_only_qconfig}
        quantised = quantization.quantize_dynamic(model, config)
        assert "Quantized" in repr(quantised)
        results.append(quantised[0](*LARGE))
    assert torch.equal(*results)
