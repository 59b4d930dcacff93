"""Training several models in turns, with a clock for each stage of an epoch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

STAGES = ("batches", "forward", "backward", "optimiser")


@dataclass
class Clocks:
    """The time that each stage of an epoch took: each of STAGES, and the "evaluation"."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Adds the time that the block takes to ``seconds[stage]``."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


EpochT = TypeVar("EpochT", bound=Clocks)


class TimedTrainer(ABC, Generic[EpochT]):
    """A model in training.

    Attributes:
        name: of the engine that does the lookups of the model.
        epochs: the epochs so far.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.epochs: list[EpochT] = []

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of batches in an epoch."""

    @property
    @abstractmethod
    def quality(self) -> str:
        """How good the model is after the last epoch, in a few words."""

    @abstractmethod
    def run_epoch(self, advance: Callable[[], None]) -> None:
        """Trains an epoch, then measures; calls ``advance`` after each batch."""

    def seconds(self, stage: str) -> float:
        """The median over the epochs of the time that a stage took."""
        return median(epoch.seconds[stage] for epoch in self.epochs)

    @property
    def wall(self) -> float:
        """The time of the whole training, with the evaluations."""
        return sum(sum(epoch.seconds.values()) for epoch in self.epochs)


def train_in_turns(trainers: Sequence[TimedTrainer[Any]], epochs: int, console: Console) -> None:
    """Trains every model, an epoch of each in turn: they meet the same load of the machine."""
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
