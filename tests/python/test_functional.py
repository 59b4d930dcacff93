"""What the thin Python layer adds: signatures, argument order, overrides."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

import myemb
import myemb.functional as M


@pytest.mark.parametrize("name", ["embedding", "embedding_bag"])
def test_signatures_are_pytorchs(name: str) -> None:
    def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        return [
            (parameter.name, parameter.default, parameter.kind)
            for parameter in inspect.signature(function).parameters.values()
        ]

    assert parameters(getattr(M, name)) == parameters(getattr(F, name))


def test_the_package_says_what_it_is() -> None:
    assert myemb.__version__ == myemb._C.version
    assert (Path(myemb.cmake_prefix_path) / "myemb" / "myembConfig.cmake").is_file()
    assert set(myemb.__all__) <= set(dir(myemb))


def test_another_torch_is_refused_in_one_sentence() -> None:
    program = (
        "import torch\n"
        "torch.__version__ = torch.torch_version.TorchVersion('1.2.3')\n"
        "import myemb\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: myemb was compiled against torch ")
    assert "but torch 1.2.3 is installed: install torch" in last
    assert "undefined symbol" not in result.stderr


@pytest.mark.parametrize("padding_idx", [5, 100, -6])
def test_padding_idx_must_be_a_row(padding_idx: int, device: str) -> None:
    weight = torch.ones(5, 2, device=device)
    with pytest.raises(AssertionError, match=r"^Padding_idx must be within num_embeddings$"):
        M.embedding(torch.tensor([0], device=device), weight, padding_idx=padding_idx)


def test_the_old_argument_order_still_works_with_a_warning(device: str) -> None:
    weight = torch.randn(5, 2, device=device)
    lookups = torch.tensor([[0, 4], [1, 1]], device=device)
    with pytest.warns(
        UserWarning, match="Argument order of nn.functional.embedding_bag was"
    ) as seen:
        output = M.embedding_bag(weight, lookups, mode="sum")
    assert seen[0].filename == __file__
    assert torch.equal(output, M.embedding_bag(lookups, weight, mode="sum"))


@pytest.mark.parametrize("mode", ["min", "Sum", "", None, 0])
def test_an_unknown_mode_is_refused(mode: Any, device: str) -> None:
    with pytest.raises(ValueError, match="mode has to be one of sum, mean or max"):
        M.embedding_bag(
            torch.tensor([[0]], device=device), torch.ones(2, 2, device=device), mode=mode
        )


class Recorder(TorchFunctionMode):
    """Counts the functions that pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Tagged(Tensor):
    """A subclass with PyTorch's default __torch_function__."""


class Refusing(Tensor):
    """A subclass that answers for itself."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return func.__name__, sorted(kwargs or {})


def calls(device: str) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    weight = torch.randn(5, 2, device=device)
    lookups = torch.tensor([[0, 4], [1, 1]], device=device)
    return [
        (M.embedding, (lookups, weight)),
        (M.embedding_bag, (lookups, weight)),
        (M.embedding_renorm_, (weight, lookups, 1.0)),
    ]


def test_torch_function_modes_see_every_call(device: str) -> None:
    for function, arguments in calls(device):
        expected = function(*arguments)
        with Recorder() as recorder:
            output = function(*arguments)
        assert recorder.seen[0] is function
        assert torch.equal(output, expected)


def test_tensor_subclasses_pass_through(device: str) -> None:
    for function, arguments in calls(device):
        expected = function(*arguments)
        for position in (0, 1):
            wrapped = list(arguments)
            wrapped[position] = arguments[position].as_subclass(Tagged)
            output = function(*wrapped)
            assert type(output) is Tagged
            assert torch.equal(output.as_subclass(Tensor), expected)


def test_tensor_subclasses_may_answer_for_themselves(device: str) -> None:
    (_, (lookups, weight)), *_ = calls(device)
    refusing = weight.as_subclass(Refusing)
    expected = ["max_norm", "norm_type", "padding_idx", "scale_grad_by_freq", "sparse"]
    assert M.embedding(lookups, refusing) == ("embedding", expected)
    assert M.embedding_bag(lookups, refusing)[0] == "embedding_bag"
    weights = torch.ones(2, 2, device=device).as_subclass(Refusing)
    assert M.embedding_bag(lookups, weight, per_sample_weights=weights)[0] == "embedding_bag"
    assert M.embedding_renorm_(refusing, lookups, 1.0)[0] == "embedding_renorm_"


def test_an_fx_graph_names_the_functions() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lookup = myemb.nn.Embedding(5, 2)
            self.bag = myemb.nn.EmbeddingBag(5, 2)

        def forward(self, rows: Tensor) -> Tensor:
            return self.lookup(rows).sum(1) + self.bag(rows)

    model = Model()
    traced = torch.fx.symbolic_trace(model)
    rows = torch.tensor([[1, 2], [0, 4]])
    assert torch.equal(traced(rows), model(rows))
    assert {M.embedding, M.embedding_bag} <= {node.target for node in traced.graph.nodes}


def test_fake_tensors_take_the_same_way() -> None:
    with torch._subclasses.FakeTensorMode():
        weight, lookups = torch.ones(5, 2), torch.zeros(3, 4, dtype=torch.long)
        assert M.embedding(lookups, weight).shape == (3, 4, 2)
        assert M.embedding_bag(lookups, weight, max_norm=1.0).shape == (3, 2)
        assert M.embedding(lookups, weight, max_norm=1.0).shape == (3, 4, 2)
