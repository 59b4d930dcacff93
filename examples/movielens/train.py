"""Training: one epoch at a time, with a clock for each stage of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..common.training import Clocks, TimedTrainer
from .dataset import MovieLens
from .features import Batch
from .model import Engine, Recommender

LEARNING_RATE = 0.05
MINIMUM_GAIN = 2e-4  # a later epoch is better if its validation AUC is higher by more than this


@dataclass
class Epoch(Clocks):
    """What one epoch gave, and the time of its stages.

    Attributes:
        loss: the mean binary cross-entropy over the training ratings, while they were learned.
        auc: of the splits "valid" and "test", after the epoch.
    """

    loss: float = 0.0
    auc: dict[str, float] = field(default_factory=dict)


class Trainer(TimedTrainer[Epoch]):
    """A model in training: equal seeds give equal batches, weights and dropout to every engine.

    Attributes:
        best: the number of the epoch, from 0, that the AUC of the validation split chooses.
    """

    def __init__(self, data: MovieLens, engine: Engine, seed: int, batch_size: int) -> None:
        super().__init__(engine.name)
        self.data, self.seed, self.batch_size = data, seed, batch_size
        torch.manual_seed(seed)
        self.model = Recommender(data.num_rows, engine)
        # One rule for tables and MLP, and the same one for dense and for sparse gradients: a row
        # whose gradient is zero is left alone.
        self.optimiser = torch.optim.Adagrad(self.model.parameters(), lr=LEARNING_RATE)
        self.labels = data.liked("train")
        self.best = 0
        self._best_weights: dict[str, Tensor] = {}

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.labels) // self.batch_size)

    @property
    def quality(self) -> str:
        """The AUC of the validation split after the last epoch."""
        return f"validation AUC {self.epochs[-1].auc['valid']:.4f}"

    def run_epoch(self, advance: Callable[[], None]) -> None:
        """Learns every training rating once, then measures; calls ``advance`` after each batch."""
        epoch = Epoch()
        torch.manual_seed(self.seed + len(self.epochs) + 1)
        self.model.train()
        order = torch.randperm(len(self.labels))
        for ratings in torch.split(order, self.batch_size):
            epoch.loss += self._step(ratings, epoch) * len(ratings) / len(self.labels)
            advance()
        with epoch.clock("evaluation"):
            epoch.auc = {split: self._auc(split) for split in ("valid", "test")}
        self.epochs.append(epoch)
        gain = epoch.auc["valid"] - self.epochs[self.best].auc["valid"]
        if gain > MINIMUM_GAIN or len(self.epochs) == 1:
            self.best = len(self.epochs) - 1
            self._best_weights = {n: w.clone() for n, w in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Gives the model the weights that it had after the best epoch."""
        self.model.load_state_dict(self._best_weights)

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Returns the probability that the user likes the film, for each pair: float32 (B,)."""
        self.model.eval()
        scores: Tensor = self.model(batch).sigmoid()
        return scores

    def _step(self, ratings: Tensor, epoch: Epoch) -> float:
        with epoch.clock("batches"):
            batch, labels = self.data.batch(ratings), self.labels[ratings]
        with epoch.clock("forward"):
            loss = nn.functional.binary_cross_entropy_with_logits(self.model(batch), labels)
        with epoch.clock("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with epoch.clock("optimiser"):
            self.optimiser.step()
            self.optimiser.zero_grad()
        return loss.item()

    def _auc(self, split: str) -> float:
        part = self.data.splits[split]
        chunks = torch.split(torch.arange(part.start, part.stop), 4096)
        scores = torch.cat([self.score(self.data.batch(ratings)) for ratings in chunks])
        return area_under_curve(scores.numpy(), self.data.liked(split).numpy() > 0)


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
