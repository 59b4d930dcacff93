"""The examples of PyTorch's documentation and tutorials, by name and with their numbers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from myemb import nn
from myemb.functional import embedding, embedding_bag

SENTENCES = [[1, 2, 4, 5], [4, 3, 2, 9]]


def test_from_pretrained_at_index_1(device: str) -> None:
    weight = torch.tensor([[1, 2.3, 3], [4, 5.1, 6.3]], device=device)
    module = nn.Embedding.from_pretrained(weight)
    output = module(torch.tensor([1], device=device))
    assert torch.equal(output, torch.tensor([[4.0, 5.1, 6.3]], device=device))
    assert not module.weight.requires_grad


def test_a_table_of_10_by_3(device: str) -> None:
    module = nn.Embedding(10, 3, device=device)
    output = module(torch.tensor(SENTENCES, device=device))
    assert output.shape == (2, 4, 3)
    for sentence, rows in zip(SENTENCES, output, strict=True):
        assert torch.equal(rows, torch.stack([module.weight[word] for word in sentence]))


def test_a_lookup_is_one_hot_times_the_table(device: str) -> None:
    weight = torch.randn(10, 3, dtype=torch.float64, device=device)
    words = torch.tensor(SENTENCES, device=device)
    one_hot = torch.nn.functional.one_hot(words, 10).double()
    assert torch.equal(embedding(words, weight), one_hot @ weight)


def test_padding_idx_0(device: str) -> None:
    module = nn.Embedding(10, 3, padding_idx=0, device=device)
    words = torch.tensor([[0, 2, 0, 5]], device=device)
    output = module(words)
    assert torch.equal(output[0, [0, 2]], torch.zeros(2, 3, device=device))
    assert bool(output[0, [1, 3]].all())
    output.backward(torch.ones_like(output))
    assert module.weight.grad is not None
    assert module.weight.grad.sum(1).tolist() == [0, 0, 3, 0, 0, 3, 0, 0, 0, 0]


def test_the_padding_row_changed_by_hand(device: str) -> None:
    module = nn.Embedding(3, 3, padding_idx=0, device=device)
    assert torch.equal(module.weight[0], torch.zeros(3, device=device))
    with torch.no_grad():
        module.weight[0] = torch.ones(3, device=device)
    output = module(torch.tensor([0, 1], device=device))
    assert torch.equal(output[0], torch.ones(3, device=device))
    output.backward(torch.ones_like(output))
    assert module.weight.grad is not None
    assert module.weight.grad.tolist() == [[0.0] * 3, [1.0] * 3, [0.0] * 3]


def test_padding_idx_and_max_norm_in_from_pretrained(device: str) -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0]], device=device)
    module = nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=2, max_norm=1.0)
    assert (module.padding_idx, module.max_norm) == (2, 1.0)
    output = module(torch.tensor([0, 1, 2], device=device))
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.6, 0.8]], device=device)
    torch.testing.assert_close(output, expected)
    output.backward(torch.ones_like(output))
    assert module.weight.grad is not None
    assert module.weight.grad.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]


def test_max_norm_true_leaves_only_the_looked_up_rows_at_norm_1(device: str) -> None:
    rows = torch.arange(1.0, 16.0, device=device).view(3, 5)
    module = nn.Embedding(3, 5, max_norm=True, _weight=rows.clone())
    module(torch.tensor([1, 2], device=device))
    norms = module.weight.detach().norm(dim=1)
    torch.testing.assert_close(norms[1:], torch.ones(2, device=device))
    assert torch.equal(module.weight[0], rows[0])


def test_a_table_used_before_max_norm_must_be_cloned(device: str) -> None:
    def loss(clone: bool) -> Tensor:
        torch.manual_seed(0)
        module = nn.Embedding(3, 5, max_norm=1.0, device=device)
        projection = torch.randn(7, 5, device=device, requires_grad=True)
        table = module.weight.clone() if clone else module.weight
        before = table @ projection.t()
        after = module(torch.tensor([1, 2], device=device)) @ projection.t()
        return (before.unsqueeze(0) + after.unsqueeze(1)).sigmoid().prod()

    loss(clone=True).backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss(clone=False).backward()


def test_seed_42_a_5_by_3_table_at_0_2_4(device: str) -> None:
    torch.manual_seed(42)
    module = nn.Embedding(5, 3).to(device)
    torch.manual_seed(42)
    rows = torch.nn.Embedding(5, 3).weight.to(device)
    output = module(torch.tensor([0, 2, 4], device=device))
    assert torch.equal(output, rows[[0, 2, 4]])
    first = torch.tensor([0.3367, 0.1288, 0.2345], device=device)
    torch.testing.assert_close(output[0].detach(), first, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_of_eight_words_in_two_bags(mode: str, device: str) -> None:
    module = nn.EmbeddingBag(10, 3, mode=mode, device=device)
    words = torch.tensor([1, 2, 4, 5, 4, 3, 2, 9], device=device)
    output = module(words, torch.tensor([0, 4], device=device))
    rows = module.weight[words].view(2, 4, 3)
    expected = rows.amax(1) if mode == "max" else getattr(rows, mode)(1)
    torch.testing.assert_close(output, expected)


def test_embedding_bag_with_a_padding_bag(device: str) -> None:
    weight = torch.randn(10, 3, device=device)
    words = torch.tensor([2, 2, 2, 2, 4, 3, 2, 9], device=device)
    starts = torch.tensor([0, 4], device=device)
    output = embedding_bag(words, weight, starts, padding_idx=2, mode="sum")
    assert torch.equal(output[0], torch.zeros(3, device=device))
    torch.testing.assert_close(output[1], weight[4] + weight[3] + weight[9])


def test_embedding_bag_from_an_embedding(device: str) -> None:
    words = nn.Embedding(10, 3, padding_idx=2, device=device)
    bags = nn.EmbeddingBag.from_pretrained(
        words.weight, padding_idx=words.padding_idx, mode="sum", freeze=False
    )
    assert bags.padding_idx == 2
    sentence = torch.tensor([[4, 2, 9]], device=device)
    torch.testing.assert_close(bags(sentence), words(sentence).sum(1))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", ["SGD", "SparseAdam", "Adagrad"])
@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
def test_sparse_gradients_with(name: str, kind: str, device: str) -> None:
    """Three steps move the looked-up rows as PyTorch's own module moves them, and no others."""
    words = torch.tensor([[1, 2, 4, 2]], device=device)

    def train(module: Any) -> Tensor:
        optimizer = getattr(torch.optim, name)(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(words).square().sum().backward()
            assert module.weight.grad.is_sparse
            optimizer.step()
        return module.weight.detach()

    torch.manual_seed(0)
    ours = getattr(nn, kind)(6, 3, sparse=True, device=device)
    before = ours.weight.detach().clone()
    theirs = getattr(torch.nn, kind)(6, 3, sparse=True, device=device)
    theirs.load_state_dict(ours.state_dict())
    after = train(ours)
    torch.testing.assert_close(after, train(theirs))
    assert (after != before).any(1).tolist() == [False, True, True, False, True, False]


TRAINING = [
    ("the dog ate the apple", "DET NN V DET NN"),
    ("everybody read that book", "NN V DET NN"),
    ("the cat saw a bird", "DET NN V DET NN"),
    ("a child read the story", "DET NN V DET NN"),
    ("that bird ate everything", "DET NN V NN"),
    ("everybody saw the child", "NN V DET NN"),
]


class Tagger(torch.nn.Module):
    """An embedding, an LSTM and a linear layer: a tag for each word."""

    def __init__(self, num_words: int, num_tags: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, 8)
        self.lstm = torch.nn.LSTM(8, 8)
        self.tags = torch.nn.Linear(8, num_tags)

    def forward(self, sentence: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.words(sentence).unsqueeze(1))
        return torch.log_softmax(self.tags(hidden.squeeze(1)), dim=1)


def numbered(position: int) -> list[list[int]]:
    words = [pair[position].split() for pair in TRAINING]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(itertools.chain(*words)))}
    return [[vocabulary[word] for word in sentence] for sentence in words]


def test_an_lstm_learns_to_tag_without_an_error(device: str) -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)  # nothing here is worth a second one
    sentences = [torch.tensor(each, device=device) for each in numbered(0)]
    tags = [torch.tensor(each, device=device) for each in numbered(1)]
    model = Tagger(1 + max(int(s.max()) for s in sentences), 3).to(device)
    before = model.words.weight.detach().clone()

    def errors() -> int:
        with torch.no_grad():
            return sum(
                int((model(sentence).argmax(1) != tag).sum())
                for sentence, tag in zip(sentences, tags, strict=True)
            )

    assert errors() > 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        for sentence, tag in zip(sentences, tags, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.nll_loss(model(sentence), tag).backward()
            optimizer.step()
    assert errors() == 0
    assert (model.words.weight != before).any(1).all()
