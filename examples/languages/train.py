"""Training: one epoch at a time, with a clock for each stage of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.bags import Bags
from ..common.training import Clocks, TimedTrainer
from .dataset import Corpus
from .model import Engine, Identifier
from .ngrams import gram_bags

LEARNING_RATE = 0.2  # chosen, as the number of epochs, on a part of the training snippets


@dataclass
class Epoch(Clocks):
    """What one epoch gave, and the time of its stages.

    Attributes:
        loss: the mean cross-entropy over the training snippets, while they were learned.
        accuracy: on the test split, after the epoch.
    """

    loss: float = 0.0
    accuracy: float = 0.0


class Trainer(TimedTrainer[Epoch]):
    """An identifier in training: equal seeds give equal batches and weights to every engine."""

    def __init__(self, corpus: Corpus, engine: Engine, seed: int, batch_size: int) -> None:
        super().__init__(engine.name)
        self.corpus, self.seed, self.batch_size = corpus, seed, batch_size
        torch.manual_seed(seed)
        self.model = Identifier(engine.embedding_bag)
        self.optimisers = engine.optimisers(self.model, LEARNING_RATE)

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.corpus.train) // self.batch_size)

    @property
    def quality(self) -> str:
        """The accuracy on the test split after the last epoch."""
        return f"test accuracy {self.epochs[-1].accuracy:.2%}"

    def run_epoch(self, advance: Callable[[], None]) -> None:
        """Learns every training snippet once, then tests; calls ``advance`` after each batch."""
        epoch = Epoch()
        torch.manual_seed(self.seed + len(self.epochs) + 1)
        order = self.corpus.train[torch.randperm(len(self.corpus.train))]
        for snippets in torch.split(order, self.batch_size):
            epoch.loss += self._step(snippets, epoch) * len(snippets) / len(order)
            advance()
        with epoch.clock("evaluation"):
            right = self.predict_test() == self.corpus.labels[self.corpus.test]
            epoch.accuracy = right.double().mean().item()
        self.epochs.append(epoch)

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

    def _step(self, snippets: Tensor, epoch: Epoch) -> float:
        with epoch.clock("batches"):
            bags, labels = self.corpus.bags.take(snippets), self.corpus.labels[snippets]
        with epoch.clock("forward"):
            loss = nn.functional.cross_entropy(self.model(bags), labels)
        with epoch.clock("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with epoch.clock("optimiser"):
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad()
        return loss.item()
