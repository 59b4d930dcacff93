"""The recommender: eleven embedding tables, the dot products of their vectors, and a small MLP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .features import Batch

DIM = 16
HIDDEN = 64
DROPOUT = 0.4
MAX_NORM = {"user": 0.5, "film": 0.5}
BAG_MODES = {"genres": "mean", "title": "mean", "rated": "sum", "raters": "sum"}


@dataclass(frozen=True)
class Engine:
    """What looks up the tables of a model, and what updates them.

    Attributes:
        name: what the tables and plots call it.
        tables: makes the module of all tables from the number of their rows, in this order; it
            turns a Batch into vectors, float32 (B, F * DIM).
        optimisers: makes the optimisers of a model, for a learning rate.
    """

    name: str
    tables: Callable[[dict[str, int]], nn.Module]
    optimisers: Callable[[Recommender, float], list[Optimizer]]


class Recommender(nn.Module):
    """Scores how likely a user is to like a film, from the features of both and their history.

    Each feature is one vector of DIM numbers: a row of its table, or the sum or mean of a bag of
    rows. The MLP reads all vectors and the dot product of every two of them. Equal seeds give equal
    weights, whatever the engine.
    """

    pairs: Tensor

    def __init__(self, num_rows: dict[str, int], engine: Engine) -> None:
        super().__init__()
        self.tables = engine.tables(num_rows)
        for weight in self.tables.parameters():
            nn.init.normal_(weight, std=0.25 * DIM**-0.5)
        count = len(num_rows)
        first, second = torch.triu_indices(count, count, 1)
        self.register_buffer("pairs", first * count + second, persistent=False)
        width = count * DIM + len(self.pairs)
        self.dropout = nn.Dropout(DROPOUT)
        self.mlp = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logit of "likes it" for each pair of the batch: float32 (B,)."""
        vectors = self.dropout(self.tables(batch).unflatten(1, (-1, DIM)))
        dots = (vectors @ vectors.mT).flatten(1).index_select(1, self.pairs)
        logits: Tensor = self.mlp(torch.cat([vectors.flatten(1), dots], 1))
        return logits.squeeze(1)
