"""myemb.replace_embeddings_: every embedding module swapped, nothing else changed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize

import myemb
from myemb import nn, replace_embeddings_


class Scaled(torch.nn.Embedding):
    """Has no forward of its own."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(0.1)


class Doubling(torch.nn.Embedding):
    """Has a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Halved(torch.nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(6, 3, padding_idx=0)
        self.bags = torch.nn.ModuleList(
            [torch.nn.EmbeddingBag(6, 3, mode="max"), torch.nn.EmbeddingBag(6, 3, sparse=True)]
        )
        self.again = self.words
        self.decoder = torch.nn.Linear(3, 6, bias=False)
        self.decoder.weight = self.words.weight

    def forward(self, rows: Tensor) -> Tensor:
        bags = sum(bag(rows) for bag in self.bags)
        return self.decoder(self.words(rows).sum(1) + self.again(rows).sum(1) + bags)


ROWS = torch.tensor([[1, 5, 0], [2, 2, 4]])


def test_a_model_keeps_its_parts_and_its_results() -> None:
    model = Model().eval()
    model.bags[0].weight.requires_grad_(False)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    expected = model(ROWS)
    assert replace_embeddings_(model) is model
    assert dict(model.named_modules()) == modules
    assert all(new is parameters[name] for name, new in model.named_parameters())
    assert type(model.words) is type(model.again) is nn.Embedding
    assert [type(bag) for bag in model.bags] == [nn.EmbeddingBag, nn.EmbeddingBag]
    assert model.decoder.weight is model.words.weight
    assert isinstance(model.words, torch.nn.Embedding)
    assert not any(module.training for module in model.modules())
    assert not model.bags[0].weight.requires_grad
    torch.testing.assert_close(model(ROWS), expected)


def test_the_swapped_model_really_calls_this_library() -> None:
    model = replace_embeddings_(Model())
    with torch.profiler.profile() as profile:
        model(ROWS)
    names = {event.name for event in profile.events()}
    assert {"myemb::embedding", "myemb::embedding_bag"} <= names
    assert not names & {"aten::embedding", "aten::embedding_bag", "aten::_embedding_bag"}


def test_a_second_call_changes_nothing() -> None:
    model = replace_embeddings_(torch.nn.Sequential(Model(), Scaled(3, 2)))
    types = [type(module) for module in model.modules()]
    replace_embeddings_(model)
    assert [type(module) for module in model.modules()] == types


def test_the_root_itself_is_swapped() -> None:
    root = torch.nn.Embedding(3, 2)
    assert replace_embeddings_(root) is root
    assert type(root) is nn.Embedding


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_hooks_keep_firing() -> None:
    module = torch.nn.Embedding(4, 2)
    fired: list[str] = []
    module.register_forward_pre_hook(lambda *_: fired.append("before"))
    module.register_forward_hook(lambda *_: fired.append("after"))
    module.register_full_backward_hook(lambda *_: fired.append("backward"))
    module.weight.register_hook(lambda _: fired.append("gradient"))
    replace_embeddings_(module)
    module(torch.tensor([1, 2])).backward(torch.ones(2, 2))
    assert fired[:2] == ["before", "after"]
    assert sorted(fired[2:]) == ["backward", "gradient"]


def test_an_optimizer_made_before_goes_on() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model[0].weight.detach().clone()
    replace_embeddings_(model)
    model(torch.tensor([3])).backward(torch.ones(1, 2))
    optimizer.step()
    before[3] -= 1
    assert torch.equal(model[0].weight, before)


def test_a_subclass_without_forward_is_swapped_and_stays_itself() -> None:
    model = torch.nn.Sequential(Scaled(4, 2))
    replace_embeddings_(model)
    module = model[0]
    assert isinstance(module, Scaled)
    assert isinstance(module, nn.Embedding)
    assert type(module).__name__ == "Scaled"
    assert type(module).forward is nn.Embedding.forward
    module.reset_parameters()
    assert module.weight.detach().abs().max() < 1
    for replica in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert isinstance(replica, Scaled)
        assert isinstance(replica, nn.Embedding)
        assert torch.equal(replica.weight, module.weight)
        assert torch.equal(replica(ROWS[:, :1]), module(ROWS[:, :1]))
        assert replica.state_dict().keys() == module.state_dict().keys()


def test_a_forward_of_ones_own_is_left_alone() -> None:
    subclass, patched = Doubling(4, 2), torch.nn.Embedding(4, 2)
    patched.forward = lambda input: torch.zeros(1)  # type: ignore[method-assign]
    replace_embeddings_(torch.nn.Sequential(subclass, patched))
    assert type(subclass) is Doubling
    assert type(patched) is torch.nn.Embedding
    rows = torch.tensor([1])
    assert torch.equal(subclass(rows), 2 * subclass.weight[1:2])
    assert torch.equal(patched(rows), torch.zeros(1))


@pytest.mark.parametrize("make", [torch.nn.Embedding, Scaled, torch.nn.EmbeddingBag])
def test_parametrized_modules(make: Any) -> None:
    module, other = make(4, 2), make(4, 2)
    for each in (module, other):
        parametrize.register_parametrization(each, "weight", Halved(), unsafe=True)
    replica = copy.deepcopy(other)
    lookups = torch.tensor([[1, 3]])
    expected = module(lookups)
    replace_embeddings_(module)
    replace_embeddings_(module)
    assert isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    assert parametrize.is_parametrized(module, "weight")
    assert torch.equal(module(lookups), expected)
    assert not isinstance(other, (nn.Embedding, nn.EmbeddingBag))
    assert not isinstance(replica, (nn.Embedding, nn.EmbeddingBag))
    parametrize.remove_parametrizations(module, "weight")
    assert isinstance(module, make)
    assert type(module).forward in (nn.Embedding.forward, nn.EmbeddingBag.forward)
    assert torch.equal(module(lookups), expected)


def test_weight_norm_goes_on_training() -> None:
    module: Any = parametrizations.weight_norm(torch.nn.Embedding(4, 2))
    replace_embeddings_(module)
    module(torch.tensor([1])).backward(torch.ones(1, 2))
    assert module.parametrizations.weight.original1.grad[1].any()


def test_modules_of_this_library_stay() -> None:
    model = torch.nn.Sequential(nn.Embedding(3, 2), torch.nn.Linear(2, 2))
    replace_embeddings_(model)
    assert [type(module) for module in model] == [nn.Embedding, torch.nn.Linear]
    assert myemb.replace_embeddings_ is replace_embeddings_


def test_restored_models_are_what_they_were() -> None:
    class Own(torch.nn.Embedding):
        pass

    model = torch.nn.ModuleList([torch.nn.Embedding(5, 3), torch.nn.EmbeddingBag(5, 3), Own(5, 3)])
    parametrized = torch.nn.utils.parametrizations.weight_norm(torch.nn.Embedding(5, 3))
    model.append(parametrized)
    classes, parameters = [type(each) for each in model[:3]], list(model.parameters())
    rows = torch.tensor([[1, 2]])
    expected = [module(rows) for module in model]
    myemb.restore_embeddings_(myemb.replace_embeddings_(model))
    assert [type(each) for each in model[:3]] == classes
    assert isinstance(parametrized, torch.nn.Embedding)
    assert not isinstance(parametrized, myemb.nn.Embedding)
    assert all(mine is other for mine, other in zip(model.parameters(), parameters, strict=True))
    for module, output in zip(model, expected, strict=True):
        torch.testing.assert_close(module(rows), output, rtol=0, atol=0)
    torch.nn.utils.parametrize.remove_parametrizations(parametrized, "weight")
    assert type(parametrized) is torch.nn.Embedding
    assert type(myemb.restore_embeddings_(myemb.nn.Embedding(5, 3))) is torch.nn.Embedding
