"""StaticEmbedding of sentence-transformers: a sentence is a bag of its tokens, EmbeddingBag."""

from __future__ import annotations

from pathlib import Path

import torch
from films import batches, genres, ratings
from harness import assert_same, compare, fit
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses, modules
from torch import Tensor
from transformers import AutoTokenizer


class Bags:
    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def build(self) -> torch.nn.Module:
        bags = modules.StaticEmbedding(self.tokenizer, embedding_dim=64)
        return SentenceTransformer(modules=[bags], device="cpu")

    def train(self, model: torch.nn.Module) -> list[float]:
        loss = losses.MultipleNegativesRankingLoss(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        labels = torch.empty(0)

        def loss_of(films: Tensor) -> Tensor:
            pairs = [[texts[film] for film in films] for texts in (ratings().titles, genres())]
            return loss([model.tokenize(texts) for texts in pairs], labels)

        return fit(optimizer, batches(len(genres()), 64), loss_of)

    def evaluate(self, model: torch.nn.Module) -> Tensor:
        return model.encode(ratings().titles[:64], convert_to_tensor=True)


def test_static_embedding(minilm: Path) -> None:
    client = Bags(minilm)
    comparison = compare("sentence-transformers StaticEmbedding", 1, client)
    assert_same(comparison, outputs=1e-6, gradients=1e-6, losses=1e-5)
