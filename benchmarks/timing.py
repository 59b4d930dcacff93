"""Samples, and rounds in which every engine takes its turn."""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

SAMPLE_SECONDS = 2e-3  # a sample takes at least that long: a clock's tick is nothing against it
MOST_REPEATS = 20_000
LEAST_ROUNDS = 3


class Engine(Protocol):
    """What can be timed."""

    name: str

    def seconds(self, repeats: int, keep: bool) -> float:
        """Returns the time of a call, the mean of some that follow each other."""


def seconds_per_call(call: Callable[[], Any], repeats: int, keep: bool) -> float:
    """Times calls; with ``keep`` what they return lives until the clock has stopped.

    Otherwise each result is dropped before the next call, which may then get its memory.
    """
    kept: list[Any] = []
    start = time.perf_counter()
    if keep:
        for _ in range(repeats):
            kept.append(call())
    else:
        for _ in range(repeats):
            call()
    return (time.perf_counter() - start) / repeats


@dataclasses.dataclass(frozen=True)
class Spread:
    """The times of an engine: a sample for each round, in seconds."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """The middle half of the samples, as a part of the median."""
        if len(self.samples) < 4:
            return (max(self.samples) - min(self.samples)) / self.median
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / self.median

    def ratio_of(self, other: Spread) -> float:
        """Returns how many times as long the other one takes: the median of all rounds' ratios.

        What slows the machine down for a round slows down both.
        """
        pairs = zip(self.samples, other.samples, strict=True)
        return statistics.median(theirs / mine for mine, theirs in pairs)


def measure(engines: Sequence[Engine], rounds: int, budget: float, keep: bool) -> dict[str, Spread]:
    """Times the engines in turns; the first of a round is another one each time.

    Args:
        engines: What to time.
        rounds: How often each has its turn,
        budget: unless that would take more seconds.
        keep: Results live on while the clock runs, so that each needs fresh memory.
    """
    repeats, cost = {}, 0.0
    for engine in engines:
        engine.seconds(1, keep)
        once = engine.seconds(1, keep)
        wanted = 1 if keep else min(MOST_REPEATS, math.ceil(SAMPLE_SECONDS / max(once, 1e-7)))
        repeats[engine.name] = wanted
        cost += wanted * once
    rounds = max(LEAST_ROUNDS, min(rounds, int(budget / cost)))
    samples: dict[str, list[float]] = {engine.name: [] for engine in engines}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            first = number % len(engines)
            for engine in (*engines[first:], *engines[:first]):
                samples[engine.name].append(engine.seconds(repeats[engine.name], keep))
    finally:
        gc.enable()
    return {name: Spread(tuple(each)) for name, each in samples.items()}
