"""Training: one epoch at a time, with a clock for each stage of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.bags import Bags
from ..common.training import TimedEpoch, TimedTrainer
from .dataset import Corpus
from .model import Engine, Identifier
from .ngrams import gram_bags

LEARNING_RATE = 0.2  # chosen, as the number of epochs, on a part of the training snippets


@dataclass
class Epoch(TimedEpoch):
    """What one epoch gave, and the time of its stages.

    Attributes:
        accuracy: on the test split, after the epoch.
    """

    accuracy: float = 0.0


class Trainer(TimedTrainer[Epoch]):
    """An identifier in training."""

    model: Identifier
    epoch_type = Epoch

    def __init__(self, corpus: Corpus, engine: Engine, seed: int, batch_size: int) -> None:
        super().__init__(engine.name, seed, batch_size)
        self.corpus = corpus
        self.model = Identifier(engine.embedding_bag)
        self.optimisers = engine.optimisers(self.model, LEARNING_RATE)

    @property
    def examples(self) -> int:
        """The number of snippets of the training split."""
        return len(self.corpus.train)

    @property
    def quality(self) -> str:
        """The accuracy on the test split after the last epoch."""
        return f"test accuracy {self.epochs[-1].accuracy:.2%}"

    def batch(self, examples: Tensor) -> tuple[Bags, Tensor]:
        """Returns the bags of snippets, by their numbers in the split, and their languages."""
        snippets = self.corpus.train[examples]
        return self.corpus.bags.take(snippets), self.corpus.labels[snippets]

    def loss(self, inputs: Bags, labels: Tensor) -> Tensor:
        """Returns the cross-entropy of a batch."""
        return nn.functional.cross_entropy(self.model(inputs), labels)

    def measure(self, epoch: Epoch) -> None:
        """Notes the accuracy on the test split."""
        right = self.predict_test() == self.corpus.labels[self.corpus.test]
        epoch.accuracy = right.double().mean().item()

    def predict_test(self) -> Tensor:
        """Returns the most probable language of each snippet of the test split: int64 (test,)."""
        chunks = torch.split(self.corpus.test, 4096)
        return torch.cat([self._probabilities(self.corpus.bags.take(c)).argmax(1) for c in chunks])

    def identify(self, texts: Sequence[str]) -> Tensor:
        """Returns the probability of each language for B texts: float32 (B, languages)."""
        return self._probabilities(gram_bags(texts))

    @torch.no_grad()
    def _probabilities(self, bags: Bags) -> Tensor:
        probabilities: Tensor = self.model(bags).softmax(1)
        return probabilities
