"""The recommender: eleven embedding tables, the dot products of their vectors, and a small MLP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .features import Batch

DIM = 16
HIDDEN = 64
DROPOUT = 0.4
MAX_NORM = {"user": 0.5, "film": 0.5}
BAG_MODES = {"genres": "mean", "title": "mean", "rated": "sum", "raters": "sum"}


@dataclass(frozen=True)
class Engine:
    """The classes that do every lookup of a model, and the kind of gradient that they give.

    Attributes:
        name: what the tables and plots call it.
        embedding: `torch.nn.Embedding`, or a class with its signature.
        embedding_bag: `torch.nn.EmbeddingBag`, or a class with its signature.
        sparse: whether the gradients of the tables are sparse tensors.
    """

    name: str
    embedding: Callable[..., nn.Module]
    embedding_bag: Callable[..., nn.Module]
    sparse: bool


class Recommender(nn.Module):
    """Scores how likely a user is to like a film, from the features of both and their history.

    Each feature is one vector of DIM numbers: a row of its table, or the sum or mean of a bag of
    rows. The MLP reads all vectors and the dot product of every two of them. Equal seeds give equal
    weights, whatever the engine.
    """

    pairs: Tensor

    def __init__(self, num_rows: dict[str, int], engine: Engine) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(
            {name: self._table(name, rows, engine) for name, rows in num_rows.items()}
        )
        for weight in self.tables.parameters():
            nn.init.normal_(weight, std=0.25 * DIM**-0.5)
        count = len(num_rows)
        first, second = torch.triu_indices(count, count, 1)
        self.register_buffer("pairs", first * count + second, persistent=False)
        width = count * DIM + len(self.pairs)
        self.dropout = nn.Dropout(DROPOUT)
        self.mlp = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    @staticmethod
    def _table(name: str, rows: int, engine: Engine) -> nn.Module:
        if name not in BAG_MODES:
            return engine.embedding(rows, DIM, max_norm=MAX_NORM.get(name), sparse=engine.sparse)
        mode = BAG_MODES[name]
        return engine.embedding_bag(
            rows, DIM, mode=mode, sparse=engine.sparse, include_last_offset=True
        )

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logit of "likes it" for each pair of the batch: float32 (B,)."""
        vectors = self.dropout(torch.stack([self._look_up(name, batch) for name in self.tables], 1))
        dots = (vectors @ vectors.mT).flatten(1).index_select(1, self.pairs)
        logits: Tensor = self.mlp(torch.cat([vectors.flatten(1), dots], 1))
        return logits.squeeze(1)

    def _look_up(self, name: str, batch: Batch) -> Tensor:
        """Returns the vectors of one feature: float32 (B, DIM)."""
        table = self.tables[name]
        if name in batch.rows:
            vectors: Tensor = table(batch.rows[name])
        else:
            bags = batch.bags[name]
            vectors = table(bags.indices, bags.offsets, per_sample_weights=bags.weights)
        return vectors
