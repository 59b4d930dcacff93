"""myemb.nn: PyTorch's modules in everything but forward."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import myemb
from myemb import nn

CONFIGURATIONS: list[tuple[str, dict[str, Any]]] = [
    ("Embedding", {}),
    ("Embedding", {"padding_idx": -1, "scale_grad_by_freq": True}),
    ("Embedding", {"max_norm": 1.0, "norm_type": 1.0}),
    ("Embedding", {"sparse": True, "dtype": torch.float64}),
    ("EmbeddingBag", {}),
    ("EmbeddingBag", {"mode": "sum", "padding_idx": 2, "sparse": True}),
    ("EmbeddingBag", {"mode": "max", "max_norm": 1.0}),
]


@pytest.fixture(params=CONFIGURATIONS)
def pair(request: pytest.FixtureRequest, device: str) -> tuple[Any, Any]:
    """A module of ours and torch's, with the same table."""
    name, options = request.param
    module, original = (
        getattr(library, name)(7, 4, device=device, **options) for library in (nn, torch.nn)
    )
    original.load_state_dict(module.state_dict())
    return module, original


def test_module_computes_what_pytorchs_does(pair: tuple[Any, Any], device: str) -> None:
    module, original = pair
    lookups = torch.tensor([[0, 6, 2], [2, 2, 5]], device=device)
    output, expected = module(lookups), original(lookups)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream)
    assert module.weight.grad.layout == original.weight.grad.layout
    torch.testing.assert_close(module.weight.grad.to_dense(), original.weight.grad.to_dense())
    torch.testing.assert_close(module.weight, original.weight)


def test_everything_but_forward_is_inherited(pair: tuple[Any, Any], device: str) -> None:
    module, original = pair
    assert isinstance(module, type(original))
    assert repr(module) == repr(original)
    assert module.state_dict().keys() == original.state_dict().keys()
    assert vars(type(module)).keys() - {"forward"} <= {
        "__module__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "__annotations__",
    }
    torch.manual_seed(3)
    module.reset_parameters()
    torch.manual_seed(3)
    original.reset_parameters()
    assert torch.equal(module.weight, original.weight)


def test_pickle_deepcopy_and_torch_save(pair: tuple[Any, Any], device: str) -> None:
    module, _ = pair
    lookups = torch.tensor([[1, 4]], device=device)
    module(lookups)  # renormalises what the calls below look up
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(file, weights_only=False),
    ]
    for replica in copies:
        assert type(replica) is type(module)
        assert repr(replica) == repr(module)
        assert torch.equal(replica.weight, module.weight)
        assert torch.equal(replica(lookups), module(lookups))


def test_constructor_errors_are_pytorchs() -> None:
    with pytest.raises(AssertionError, match="Padding_idx must be within num_embeddings"):
        nn.Embedding(3, 2, padding_idx=3)
    with pytest.raises(AssertionError, match="padding_idx must be within num_embeddings"):
        nn.EmbeddingBag(3, 2, padding_idx=-4)
    with pytest.raises(AssertionError, match="Shape of weight does not match"):
        nn.Embedding(3, 2, _weight=torch.ones(2, 3))


def test_from_pretrained(device: str) -> None:
    rows = torch.randn(4, 3, device=device)
    embedding = nn.Embedding.from_pretrained(rows, padding_idx=-1, max_norm=2.0, sparse=True)
    assert type(embedding) is nn.Embedding
    assert (embedding.padding_idx, embedding.max_norm, embedding.sparse) == (3, 2.0, True)
    assert not embedding.weight.requires_grad
    assert embedding.weight.data_ptr() == rows.data_ptr()
    bag = nn.EmbeddingBag.from_pretrained(
        rows, freeze=False, mode="sum", include_last_offset=True, padding_idx=0
    )
    assert type(bag) is nn.EmbeddingBag
    assert bag.weight.requires_grad
    output = bag(torch.tensor([0, 1, 2], device=device), torch.tensor([0, 2, 3], device=device))
    assert torch.equal(output, rows[1:3])
    with pytest.raises(AssertionError, match="expected to be 2-dimensional"):
        nn.EmbeddingBag.from_pretrained(rows[0])


def test_from_pretrained_with_whole_numbers(device: str) -> None:
    rows = torch.arange(6, device=device).view(3, 2)
    embedding = nn.Embedding.from_pretrained(rows)
    assert embedding(torch.tensor([2, 0], device=device)).tolist() == [[4, 5], [0, 1]]


def test_tied_weights_get_both_gradients(device: str) -> None:
    embedding = nn.Embedding(5, 3, device=device)
    decoder = torch.nn.Linear(3, 5, bias=False, device=device)
    decoder.weight = embedding.weight
    hidden = embedding(torch.tensor([1, 1], device=device))
    decoder(hidden).backward(torch.ones(2, 5, device=device))
    weight = embedding.weight.detach().clone().requires_grad_()
    (weight[[1, 1]] @ weight.t()).backward(torch.ones(2, 5, device=device))
    torch.testing.assert_close(embedding.weight.grad, weight.grad)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", ["SGD", "SparseAdam", "Adagrad", "Adam"])
def test_training_follows_pytorch(name: str, device: str) -> None:
    sparse = name != "Adam"

    def train(module_type: type[torch.nn.Module]) -> Tensor:
        torch.manual_seed(0)
        module: Any = module_type(30, 6, mode="sum", sparse=sparse, padding_idx=3, device=device)
        optimizer = getattr(torch.optim, name)(module.parameters(), lr=0.1)
        for _ in range(10):
            lookups = torch.randint(30, (8, 4)).to(device)
            optimizer.zero_grad()
            module(lookups).square().mean().backward()
            optimizer.step()
        return module.weight.detach()

    torch.testing.assert_close(train(nn.EmbeddingBag), train(torch.nn.EmbeddingBag))


def test_functional_call_and_meta_modules(device: str) -> None:
    module = nn.Embedding(4, 2, device="meta")
    assert module(torch.tensor([[1, 2]], device="meta")).shape == (1, 2, 2)
    bag = nn.EmbeddingBag(4, 2, device="meta")
    assert bag(torch.tensor([[1, 2]], device="meta")).shape == (1, 2)
    weight = torch.randn(4, 2, device=device)
    rows = torch.tensor([3], device=device)
    output = torch.func.functional_call(module, {"weight": weight}, (rows,))
    assert torch.equal(output, weight[3:])


@pytest.mark.parametrize("module_class", [nn.Embedding, nn.EmbeddingBag])
def test_a_parametrized_table(module_class: type[torch.nn.Module], device: str) -> None:
    """It is no parameter of the module any more, but computed on each access."""

    class Doubled(torch.nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    module = module_class(6, 3).to(device)
    rows = torch.tensor([[1, 2], [4, 1]], device=device)
    expected = 2 * module(rows)
    torch.nn.utils.parametrize.register_parametrization(module, "weight", Doubled())
    torch.testing.assert_close(module(rows), expected)


def test_dtype_and_requires_grad_follow_the_module(device: str) -> None:
    module = nn.EmbeddingBag(4, 2, device=device).to(torch.bfloat16).requires_grad_(False)
    output = module(torch.tensor([[1, 2]], device=device))
    assert (output.dtype, output.requires_grad) == (torch.bfloat16, False)


def test_autocast_leaves_the_dtype_of_the_table(device: str) -> None:
    module = nn.Embedding(4, 2, device=device)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        assert module(torch.tensor([1], device=device)).dtype == torch.float32


def test_the_functions_are_reached_through_the_package() -> None:
    assert myemb.nn.Embedding is nn.Embedding
    assert myemb.functional.embedding.__module__ == "myemb.functional"
