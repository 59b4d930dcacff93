"""Word vectors as a table: sums and differences of words are bags, answers the nearest words."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .dataset import Analogies

ANALOGY = (-1.0, 1.0, 1.0)  # a is to b as c is to the word nearest to b - a + c
BATCH = 256  # questions whose similarities to all words are in memory at a time


@dataclass(frozen=True)
class Vectors:
    """Words and their vectors.

    Attributes:
        words: V of them, the most frequent one first.
        table: float32 (V, D).
        norms: float32 (V,), the lengths of the vectors.
        rows: where each word is.
    """

    words: list[str]
    table: Tensor
    norms: Tensor = field(init=False)
    rows: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norms", torch.linalg.vector_norm(self.table, dim=1))
        object.__setattr__(self, "rows", {word: row for row, word in enumerate(self.words)})

    def similarities(self, vectors: Tensor, leave_out: Tensor, most_frequent: int) -> Tensor:
        """Returns the cosines between vectors and words, not divided by the vectors' lengths.

        Args:
            vectors: (B, D).
            leave_out: int64 (B, N), words that cannot be an answer; their similarity is -inf.
            most_frequent: how many words can be. Those that are left out are among them.
        """
        found = (vectors @ self.table[:most_frequent].T).div_(self.norms[:most_frequent])
        return found.scatter_(1, leave_out, -torch.inf)

    def nearest(self, vector: Tensor, leave_out: list[int], count: int) -> list[tuple[str, float]]:
        """Returns the words nearest to a vector (D,), and their cosines."""
        found = self.similarities(vector[None], torch.tensor([leave_out]), len(self.words))[0]
        cosines, rows = (found / vector.norm()).topk(count)
        return [(self.words[r], c) for r, c in zip(rows.tolist(), cosines.tolist(), strict=True)]


def bag_vectors(bags: nn.EmbeddingBag, analogies: Analogies) -> Tensor:
    """Returns b - a + c of each question, (Q, D): a bag of three rows with weights."""
    weights = torch.tensor(ANALOGY).expand(len(analogies.words), len(ANALOGY))
    output: Tensor = bags(analogies.words[:, : len(ANALOGY)], per_sample_weights=weights)
    return output
