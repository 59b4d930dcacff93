"""What programs by others do with their embeddings, in small; tests/clients runs the programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

import myemb
from myemb import optim

LOOKUPS = torch.tensor([[3, 1, 3], [0, 6, 1]])


def pair(**options: Any) -> tuple[torch.nn.Embedding, torch.nn.Embedding]:
    """A module of torch's, and a swapped copy."""
    theirs, ours = torch.nn.Embedding(7, 4, **options), torch.nn.Embedding(7, 4, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, myemb.replace_embeddings_(ours)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("sparse", [False, True])
def test_lookups_beside_a_slice_of_the_table(sparse: bool, device: str) -> None:
    """PyG's MetaPath2Vec: the rows of a kind of node."""
    upstream = torch.randn(2, 3, 4), torch.randn(3, 4)
    gradients = []
    for module in pair(sparse=sparse):
        module.to(device)
        outputs = module(LOOKUPS.to(device)), module.weight[2:5]
        torch.autograd.backward(outputs, [each.to(device) for each in upstream])
        gradients.append(module.weight.grad)
    theirs, ours = gradients
    assert theirs is not None and ours is not None and ours.layout == theirs.layout
    assert torch.equal(ours.to_dense(), theirs.to_dense())


@pytest.mark.devices("cpu", why="test_cuda_update.py has the bits of the kernels")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("steps", ["torch", "myemb", "fused"])
def test_a_table_that_is_assigned_after_every_step(steps: str, sparse: bool, device: str) -> None:
    """pykeen's TransE: other storage each time, and what was the table before holds no table."""
    theirs, ours = pair(sparse=sparse)
    make = torch.optim.Adagrad if steps == "torch" else optim.Adagrad
    optimizers = torch.optim.Adagrad([theirs.weight], lr=0.1), make([ours.weight], lr=0.1)
    if steps == "fused":
        optim.fuse_in_backward(optimizers[1], ours)
    for step in range(4):
        upstream = torch.randn(2, 3, 4)
        for module, optimizer in zip((theirs, ours), optimizers, strict=True):
            module((LOOKUPS + step) % 7).backward(upstream)
            optimizer.step()
            optimizer.zero_grad()
            previous = module.weight.data
            module.weight.data = normalize(previous, dim=1)
            previous.fill_(float("nan"))
        torch.testing.assert_close(ours.weight, theirs.weight)


def test_a_bag_called_by_keywords(device: str) -> None:
    """TorchRec: the last offset is the end, some bags are empty, weights are there or None."""
    values, starts = LOOKUPS.flatten().to(device), torch.tensor([0, 2, 2, 6], device=device)
    weights = torch.rand(6, device=device)
    table = torch.nn.EmbeddingBag(7, 4, mode="sum", include_last_offset=True).to(device)
    for factors in (None, weights):
        keywords = {"input": values, "offsets": starts, "per_sample_weights": factors}
        expected = torch.nn.EmbeddingBag.forward(table, **keywords)
        assert expected.shape == (3, 4)
        torch.testing.assert_close(
            myemb.nn.EmbeddingBag.forward(myemb.replace_embeddings_(table), **keywords), expected
        )


def test_one_module_assigned_to_another_name(device: str) -> None:
    """transformers: ``set_input_embeddings`` wants an Embedding, and ties its weight again."""
    model = torch.nn.Module()
    model.words, model.decoder = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7, bias=False)
    model.decoder.weight = model.words.weight
    model.to(device)
    myemb.replace_embeddings_(model)
    table = myemb.nn.Embedding(9, 4, device=device)
    with torch.no_grad():
        table.weight[:7] = model.words.weight
    model.words = table
    model.decoder.weight = model.words.weight
    rows = LOOKUPS.to(device)
    assert torch.equal(model.decoder(model.words(rows)), table.weight[rows] @ table.weight.T)
    assert model.words.weight is model.decoder.weight and set(model.state_dict()) == {
        "words.weight",
        "decoder.weight",
    }


def test_a_list_of_all_optimizers_by_name_has_torchs() -> None:
    """class_resolver, and with it pykeen, makes one as it is imported, and wants no name twice."""

    class Derived(optim.AdamW):
        pass

    class DerivedAgain(Derived):
        pass

    def below(base: type[Any]) -> Iterator[type[Any]]:
        for each in base.__subclasses__():
            yield each
            yield from below(each)

    found = list(below(torch.optim.Optimizer))
    names = [each.__name__ for each in found]
    for name in ("SGD", "Adagrad", "Adam", "AdamW"):
        assert names.count(name) == 1 and getattr(torch.optim, name) in found
        assert issubclass(getattr(optim, name), torch.optim.Optimizer)
    assert found.count(Derived) == found.count(DerivedAgain) == 1
    assert optim.Adam.__subclasses__() == [Derived] and Derived.__subclasses__() == [DerivedAgain]


def test_inference_mode_and_training_take_turns(device: str) -> None:
    theirs, ours = (module.to(device) for module in pair(padding_idx=3))
    rows, upstream = LOOKUPS.to(device), torch.randn(2, 3, 4, device=device)
    for module in (theirs, ours):
        with torch.inference_mode():
            assert module(rows).is_inference()
        module(rows).backward(upstream)
    assert ours.weight.grad is not None and theirs.weight.grad is not None
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
