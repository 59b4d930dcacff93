"""Answers: to the questions of Google, by every engine in turns, and to what a person types."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from .dataset import NUM_FREQUENT, Analogies
from .vectors import BATCH, Vectors, bag_vectors

ROUNDS = 21  # of looking up all bags, the engines taking turns
SIGNS = {"+": 1.0, "-": -1.0}
THREE_WORDS = (1.0, -1.0, 1.0)  # "king man woman"


@dataclass
class Answers:
    """What an engine answered.

    Attributes:
        vectors: float32 (Q, D), b - a + c.
        seconds: of looking up all bags, for each round.
        predicted: int64 (Q,), the words nearest to the vectors.
    """

    vectors: Tensor
    seconds: list[float] = field(default_factory=list)
    predicted: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def milliseconds(self) -> float:
        """The median of the rounds."""
        return 1e3 * median(self.seconds)

    def share_right(self, analogies: Analogies, which: Tensor | None = None) -> float:
        """Returns which part of the questions, or of a part of them, bool (Q,), is answered."""
        right = self.predicted == analogies.words[:, -1]
        return (right if which is None else right[which]).double().mean().item()


def answer_all(
    engines: dict[str, nn.EmbeddingBag], vectors: Vectors, analogies: Analogies, console: Console
) -> dict[str, Answers]:
    """Looks up the bags of every engine, timed in turns, and looks for the nearest words."""
    answers = {name: Answers(bag_vectors(bags, analogies)) for name, bags in engines.items()}
    for _ in track(range(ROUNDS), "bags   ", console=console):
        for name, bags in engines.items():
            start = time.perf_counter()
            bag_vectors(bags, analogies)
            answers[name].seconds.append(time.perf_counter() - start)
    asked = analogies.words[:, :-1]
    for name, found in answers.items():
        parts = []
        for start in track(range(0, len(asked), BATCH), f"{name:7}", console=console):
            batch = slice(start, start + BATCH)
            near = vectors.similarities(found.vectors[batch], asked[batch], NUM_FREQUENT)
            parts.append(near.argmax(1))
        found.predicted = torch.cat(parts)
    return answers


def parse(text: str) -> list[tuple[str, float]]:
    """Reads words and their weights: "king - man + woman", "king man woman", or "frog".

    Three words without signs are the first minus the second plus the third; else words are added.
    """
    terms: list[tuple[str, float]] = []
    sign, signs = 1.0, 0
    for part in text.lower().split():
        if part in SIGNS:
            sign, signs = sign * SIGNS[part], signs + 1
        else:
            terms.append((part, sign))
            sign = 1.0
    if not signs and len(terms) == len(THREE_WORDS):
        return [(word, weight) for (word, _), weight in zip(terms, THREE_WORDS, strict=True)]
    return terms


def answer(
    bags: nn.EmbeddingBag, vectors: Vectors, text: str, count: int
) -> list[tuple[str, float]]:
    """Returns the words nearest to what was typed, and their cosines.

    Raises:
        KeyError: a word that there is no vector for, or "" if there is no word at all.
    """
    terms = parse(text)
    if not terms:
        raise KeyError("")
    rows = [vectors.rows[word] for word, _ in terms]
    weights = torch.tensor([[weight for _, weight in terms]])
    vector = bags(torch.tensor([rows]), per_sample_weights=weights)[0]
    return vectors.nearest(vector, rows, count)
