"""MiniLM of transformers, fine-tuned so that a film's title is near to its genres."""

from __future__ import annotations

from pathlib import Path

import torch
from films import batches, genres, ratings
from harness import assert_same, compare, fit
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM

import myemb

SENTENCES = ["cat", "kitten", "car", *ratings().titles[:29]]


class MiniLm:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def build(self) -> torch.nn.Module:
        return AutoModel.from_pretrained(self.folder)

    def train(self, model: torch.nn.Module) -> list[float]:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
        order = batches(len(genres()), 32)[:1] * 6
        return fit(optimizer, order, lambda films: self.loss(model, films.tolist()))

    def loss(self, model: torch.nn.Module, films: list[int]) -> Tensor:
        titles = self.encode(model, [ratings().titles[film] for film in films])
        kinds = self.encode(model, [genres()[film] for film in films])
        return cross_entropy(20 * titles @ kinds.T, torch.arange(len(films)))

    def encode(self, model: torch.nn.Module, sentences: list[str]) -> Tensor:
        tokens = self.tokenizer(sentences, padding=True, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(2)
        return normalize((model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1))

    def evaluate(self, model: torch.nn.Module) -> Tensor:
        model.eval()
        with torch.inference_mode():
            return self.encode(model, SENTENCES)


def test_minilm(minilm: Path) -> None:
    client = MiniLm(minilm)
    comparison = compare("transformers MiniLM", 3, client)
    cat, kitten, car = comparison.ours.first_output[:3]
    comparison.figures = f"cos(cat, kitten) {cat @ kitten:.6f}"
    assert cat @ kitten > cat @ car
    assert_same(comparison, gradients=1e-6, losses=1e-4)


def test_a_swapped_model_is_resized_saved_and_loaded(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
    )
    model = myemb.replace_embeddings_(BertForMaskedLM(config).eval())
    words = model.get_input_embeddings()
    assert isinstance(words, myemb.nn.Embedding)
    assert model.get_output_embeddings().weight is words.weight
    model.resize_token_embeddings(60)
    words = model.get_input_embeddings()
    assert isinstance(words, myemb.nn.Embedding) and words.weight.shape == (60, 16)
    assert model.get_output_embeddings().weight is words.weight
    tokens = torch.tensor([[1, 59, 2], [50, 7, 0]])
    model.save_pretrained(tmp_path)
    loaded = BertForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(loaded.get_input_embeddings()) is torch.nn.Embedding
    assert torch.equal(model(tokens).logits, loaded(tokens).logits)
