"""The identifier: the mean of the vectors of a text's n-grams, and a linear classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from ..common.bags import Bags
from .dataset import LANGUAGES
from .ngrams import NUM_ROWS

DIM = 32


class Identifier(nn.Module):
    """Scores the languages of texts. Equal seeds give equal weights, whatever the table's class."""

    def __init__(self, embedding_bag: Callable[..., nn.EmbeddingBag]) -> None:
        super().__init__()
        self.table = embedding_bag(
            NUM_ROWS, DIM, mode="mean", sparse=True, include_last_offset=True
        )
        # So an n-gram that training has not met says nothing, where a random row would be noise.
        nn.init.zeros_(self.table.weight)
        self.classifier = nn.Linear(DIM, len(LANGUAGES))

    def forward(self, bags: Bags) -> Tensor:
        """Returns the logits of the languages for B bags of n-grams: float32 (B, languages)."""
        logits: Tensor = self.classifier(self.table(bags.indices, bags.offsets))
        return logits


@dataclass(frozen=True)
class Engine:
    """What does the lookups of a model and what updates its weights.

    Attributes:
        name: what the tables and plots call it.
        embedding_bag: `torch.nn.EmbeddingBag`, or a class with its signature.
        optimisers: returns the optimisers of a model, given the learning rate.
    """

    name: str
    embedding_bag: Callable[..., nn.EmbeddingBag]
    optimisers: Callable[[Identifier, float], list[Optimizer]]
