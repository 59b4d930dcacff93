"""What was measured, and whether it is enough."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import targets
from case import Case
from machine import Load
from targets import Target
from timing import Spread

JUDGED_THREADS = 2  # speed-ups over other libraries are judged with so many


def geometric_mean(ratios: Iterable[float]) -> float:
    """Returns the mean of ratios; not a number if there are none."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def rounded(value: Any) -> Any:
    """Returns JSON whose numbers have four digits."""
    if isinstance(value, dict):
        return {key: rounded(of_key) for key, of_key in value.items()}
    if isinstance(value, list):
        return [rounded(element) for element in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


@dataclasses.dataclass(frozen=True)
class Result:
    """A case at a number of threads."""

    case: Case
    threads: int
    moved: int
    times: dict[str, Spread]
    load: Load

    @property
    def target(self) -> Target:
        """What the case has to reach."""
        return self.case.target

    @property
    def gigabytes(self) -> float:
        """What myemb moves in a second, of what has to be moved."""
        return self.moved / self.times["myemb"].median / 1e9

    def speedup(self, engine: str) -> float | None:
        """Returns how many times as long as myemb another engine takes."""
        if engine not in self.times:
            return None
        return self.times["myemb"].ratio_of(self.times[engine])

    @property
    def limit(self) -> str | None:
        """The engine that is the limit of this case."""
        wanted = self.target.against.value
        for name in (wanted, "limit", "lim+sort"):
            if name in self.times:
                return name
        return None

    @property
    def of_limit(self) -> float | None:
        """The part of the limit's speed that myemb has."""
        return self.speedup(self.limit) if self.limit else None

    def misses(self) -> list[str]:
        """Returns what is not enough, each in words."""
        found = []

        def compare(what: str, wanted: float | None, reached: float | None) -> None:
            if wanted is not None and reached is not None and reached < wanted:
                found.append(f"{reached:.2f} {what}, wanted {wanted:g}")

        if self.threads == JUDGED_THREADS:
            compare("x torch", self.target.torch, self.speedup("torch"))
            compare("x torch dense", self.target.dense, self.speedup("torch dense"))
            compare("x FBGEMM", self.target.fbgemm, self.speedup("fbgemm"))
        compare(f"of {self.limit}", self.target.limit, self.of_limit)
        return found

    def to_json(self) -> dict[str, Any]:
        """Returns all that a later comparison or a reader may want."""
        return {
            "case": self.case.name,
            "family": self.case.family,
            "threads": self.threads,
            "target": dataclasses.asdict(self.target) | {"against": self.target.against.value},
            "bytes": self.moved,
            "gb_per_s": round(self.gigabytes, 3),
            "x_torch": self.speedup("torch"),
            "x_torch_dense": self.speedup("torch dense"),
            "x_fbgemm": self.speedup("fbgemm"),
            "of_limit": self.of_limit,
            "limit": self.limit,
            "misses": self.misses(),
            "load": dataclasses.asdict(self.load) | {"disturbed": self.load.disturbed},
            "seconds": {
                name: {
                    "median": times.median,
                    "spread": times.spread,
                    "samples": list(times.samples),
                }
                for name, times in self.times.items()
            },
        }


class Results:
    """All of a run."""

    def __init__(self, machine: dict[str, Any]) -> None:
        self.machine = machine
        self.all: list[Result] = []
        self.notes: list[str] = []

    def of(self, name: str, threads: int) -> Result | None:
        """Returns the result of a case, if it was run."""
        for result in self.all:
            if (result.case.name, result.threads) == (name, threads):
                return result
        return None

    def families(self) -> list[str]:
        """Returns the families in the order of the cases."""
        return list(dict.fromkeys(result.case.family for result in self.all))

    def scaling(self, result: Result) -> float | None:
        """Returns how much faster two threads are than one, where that is judged."""
        one = self.of(result.case.name, 1)
        if result.threads != 2 or one is None or result.moved <= targets.SCALING_BYTES:
            return None
        return one.times["myemb"].median / result.times["myemb"].median

    def skew(self, result: Result) -> float | None:
        """Returns its GB/s against those of the case it should come near, if both were run."""
        like = self.of(result.case.like, result.threads)
        return None if like is None else result.gigabytes / like.gigabytes

    def misses(self, result: Result) -> list[str]:
        """Returns what is not enough, also in comparison with other cases."""
        found = result.misses()
        scaling, skew = self.scaling(result), self.skew(result)
        if scaling is not None and scaling < targets.SCALING:
            found.append(f"{scaling:.2f} x one thread, wanted {targets.SCALING}")
        if result.threads == JUDGED_THREADS and skew is not None and skew < targets.SKEW:
            found.append(f"{skew:.2f} of the uniform GB/s, wanted {targets.SKEW}")
        return found

    def save(self, path: Path) -> None:
        """Writes everything, a result a line and four digits a number: files to keep."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            result.to_json()
            | {
                "misses": self.misses(result),
                "scaling": self.scaling(result),
                "skew": self.skew(result),
            }
            for result in self.all
        ]
        lines = ",\n".join(json.dumps(rounded(row), separators=(",", ":")) for row in rows)
        head = json.dumps({"machine": self.machine, "notes": self.notes}, indent=1)
        path.write_text(f'{head[:-2]},\n "results": [\n{lines}\n ]\n}}\n')
