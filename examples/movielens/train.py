"""Training: one epoch at a time, with a clock for each stage of it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..common.training import TimedEpoch, TimedTrainer
from .dataset import MovieLens
from .features import Batch
from .model import Engine, Recommender

LEARNING_RATE = 0.05
MINIMUM_GAIN = 2e-4  # a later epoch is better if its validation AUC is higher by more than this


@dataclass
class Epoch(TimedEpoch):
    """What one epoch gave, and the time of its stages.

    Attributes:
        auc: of the splits "valid" and "test", after the epoch.
    """

    auc: dict[str, float] = field(default_factory=dict)


class Trainer(TimedTrainer[Epoch]):
    """A recommender in training.

    Attributes:
        engine: what does the lookups of the model.
        best: the number of the epoch, from 0, that the AUC of the validation split chooses.
    """

    model: Recommender
    epoch_type = Epoch

    def __init__(self, data: MovieLens, engine: Engine, seed: int, batch_size: int) -> None:
        super().__init__(engine.name, seed, batch_size)
        self.data, self.engine = data, engine
        self.model = Recommender(data.num_rows, engine)
        # One rule for tables and MLP, and the same one for dense and for sparse gradients: a row
        # whose gradient is zero is left alone.
        self.optimisers = engine.optimisers(self.model, LEARNING_RATE)
        self.labels = data.liked("train")
        self.best = 0
        self._best_weights: dict[str, Tensor] = {}

    @property
    def examples(self) -> int:
        """The number of ratings of the training split."""
        return len(self.labels)

    @property
    def quality(self) -> str:
        """The AUC of the validation split after the last epoch."""
        return f"validation AUC {self.epochs[-1].auc['valid']:.4f}"

    def batch(self, examples: Tensor) -> tuple[Batch, Tensor]:
        """Returns the features of ratings, by their numbers, and whether the film was liked."""
        return self.data.batch(examples), self.labels[examples]

    def loss(self, inputs: Batch, labels: Tensor) -> Tensor:
        """Returns the binary cross-entropy of a batch."""
        return nn.functional.binary_cross_entropy_with_logits(self.model(inputs), labels)

    def measure(self, epoch: Epoch) -> None:
        """Notes the AUCs; if that of the validation split is the best so far, the weights, too."""
        epoch.auc = {split: self._auc(split) for split in ("valid", "test")}
        best = self.epochs[self.best].auc["valid"] if self.epochs else -math.inf
        if epoch.auc["valid"] - best > MINIMUM_GAIN:
            self.best = len(self.epochs)
            self._best_weights = {n: w.clone() for n, w in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Gives the model the weights that it had after the best epoch."""
        self.model.load_state_dict(self._best_weights)

    def time_tables(self, batches: list[Batch]) -> float:
        """Returns the seconds of an epoch that the tables take by themselves.

        The lookups of these batches, backward by random gradients, and the update of the tables: of
        a copy of them, so that the model stays as it is.
        """
        torch.manual_seed(self.seed)
        model = Recommender(self.data.num_rows, self.engine)
        optimisers = self.engine.optimisers(model, LEARNING_RATE)
        model.tables.load_state_dict(self.model.tables.state_dict())
        gradients = [torch.randn_like(model.tables(batch)) for batch in batches]
        start = time.perf_counter()
        for batch, gradient in zip(batches, gradients, strict=True):
            model.tables(batch).backward(gradient)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
        return (time.perf_counter() - start) / len(batches) * self.steps

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Returns the probability that the user likes the film, for each pair: float32 (B,)."""
        self.model.eval()
        scores: Tensor = self.model(batch).sigmoid()
        return scores

    def _auc(self, split: str) -> float:
        part = self.data.splits[split]
        chunks = torch.split(torch.arange(part.start, part.stop), 4096)
        scores = torch.cat([self.score(self.data.batch(ratings)) for ratings in chunks])
        return area_under_curve(scores.numpy(), self.data.liked(split).numpy() > 0)


def time_tables(trainers: Sequence[Trainer], batches: int = 40, rounds: int = 5) -> list[float]:
    """Returns for each trainer the seconds of an epoch that its tables take by themselves.

    The engines take turns, so that they meet the same load of the machine; medians of the rounds.
    """
    data, size = trainers[0].data, trainers[0].batch_size
    ratings = torch.randperm(len(trainers[0].labels))[: batches * size]
    parts = [data.batch(part) for part in torch.split(ratings, size)]
    seconds = [[trainer.time_tables(parts) for trainer in trainers] for _ in range(rounds)]
    return [median(of_engine) for of_engine in zip(*seconds, strict=True)]


def area_under_curve(scores: npt.NDArray[np.floating], liked: npt.NDArray[np.bool_]) -> float:
    """Returns the ROC AUC: how often a liked film scores above another one; a tie counts half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    hits = int(liked.sum())
    misses = len(liked) - hits
    return float((ranks[liked].sum() - hits * (hits + 1) / 2) / (hits * misses))


def baseline_auc(data: MovieLens) -> float:
    """Returns the test AUC of scoring by the mean rating of the user plus that of the film."""
    known, test = data.splits["test"].start, data.splits["test"]

    def means(group: Tensor, count: int) -> Tensor:
        rating = data.rating[:known]
        total = torch.full((count,), rating.mean().item()).index_add_(0, group[:known], rating)
        return (total / (1 + group[:known].bincount(minlength=count)))[group]

    scores = means(data.user, data.num_rows["user"]) + means(data.film, data.num_rows["film"])
    return area_under_curve(scores[test.start : test.stop].numpy(), data.liked("test").numpy() > 0)
