"""Training several models in turns, with a clock for each stage of an epoch."""

from __future__ import annotations

import argparse
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor, nn
from torch.optim import Optimizer

STAGES = ("batches", "forward", "backward", "optimiser")


@dataclass
class TimedEpoch:
    """What an epoch gave, and the time that each stage of it took.

    Attributes:
        loss: the mean over the training examples, while they were learned.
        seconds: of each of STAGES, and of the "evaluation".
    """

    loss: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Adds the time that the block takes to ``seconds[stage]``."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


EpochT = TypeVar("EpochT", bound=TimedEpoch)


class TimedTrainer(ABC, Generic[EpochT]):
    """A model in training: equal seeds give equal batches, weights and dropout to every engine.

    Attributes:
        name: of the engine that does the lookups of the model.
        model, optimisers: a subclass makes them in its constructor.
        epoch_type: what an epoch notes.
        epochs: the epochs so far.
    """

    model: nn.Module
    optimisers: list[Optimizer]
    epoch_type: type[EpochT]

    def __init__(self, name: str, seed: int, batch_size: int) -> None:
        self.name, self.seed, self.batch_size = name, seed, batch_size
        self.epochs: list[EpochT] = []
        torch.manual_seed(seed)  # of the weights

    @property
    @abstractmethod
    def examples(self) -> int:
        """The number of training examples."""

    @abstractmethod
    def batch(self, examples: Tensor) -> tuple[Any, Tensor]:
        """Returns what the model takes of training examples, by their numbers, and the labels."""

    @abstractmethod
    def loss(self, inputs: Any, labels: Tensor) -> Tensor:
        """Returns the mean loss of a batch."""

    @abstractmethod
    def measure(self, epoch: EpochT) -> None:
        """Notes how good the model is after an epoch."""

    @property
    @abstractmethod
    def quality(self) -> str:
        """How good the model is after the last epoch, in a few words."""

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.examples // self.batch_size)

    def run_epoch(self, advance: Callable[[], None]) -> None:
        """Learns every example once, then measures; calls ``advance`` after each batch."""
        epoch = self.epoch_type()
        torch.manual_seed(self.seed + len(self.epochs) + 1)
        self.model.train()
        for examples in torch.split(torch.randperm(self.examples), self.batch_size):
            epoch.loss += self._step(examples, epoch) * len(examples) / self.examples
            advance()
        with epoch.clock("evaluation"):
            self.measure(epoch)
        self.epochs.append(epoch)

    def _step(self, examples: Tensor, epoch: EpochT) -> float:
        with epoch.clock("batches"):
            inputs, labels = self.batch(examples)
        with epoch.clock("forward"):
            loss = self.loss(inputs, labels)
        with epoch.clock("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with epoch.clock("optimiser"):
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad()
        return loss.item()

    def seconds(self, stage: str) -> float:
        """The median over the epochs of the time that a stage took."""
        return median(epoch.seconds[stage] for epoch in self.epochs)

    @property
    def wall(self) -> float:
        """The time of the whole training, with the evaluations."""
        return sum(sum(epoch.seconds.values()) for epoch in self.epochs)


def training_parser(
    description: str, epochs: int, engines: Sequence[str], picture: Path
) -> argparse.ArgumentParser:
    """Returns a parser of what every training is asked for.

    Args:
        description: of the program.
        epochs: how many are trained by default.
        engines: that there are; all of them are trained by default.
        picture: that is drawn in the end.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=512)
    # More threads gain little on batches this small, and lose much on a machine with other work.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=engines, default=engines)
    parser.add_argument("--no-plot", action="store_true", help=f"do not write {picture.name}")
    return parser


def train_in_turns(
    trainers: Sequence[TimedTrainer[Any]], epochs: int, console: Console
) -> tuple[float, float]:
    """Trains every model, an epoch of each in turn: they meet the same load of the machine.

    Returns:
        The load average before and after.
    """
    before = os.getloadavg()[0]
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        TextColumn("{task.fields[done]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks = [
            progress.add_task(t.name, total=epochs * t.steps, epoch=0, epochs=epochs, done="")
            for t in trainers
        ]
        for epoch in range(epochs):
            for trainer, task in zip(trainers, tasks, strict=True):
                progress.update(task, epoch=epoch + 1)
                trainer.run_epoch(partial(progress.advance, task))
                progress.update(task, done=f"{trainer.wall:5.1f} s, {trainer.quality}")
    return before, os.getloadavg()[0]
