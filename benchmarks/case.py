"""What a case is, and its name."""

from __future__ import annotations

import dataclasses

import targets
from inputs import Shape
from targets import Target
from work import Work

K, M = 1024, 1_000_000


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the report.

    Attributes:
        family: Cases that are reported and drawn together.
        name: Unique, and what ``--case`` searches.
        work, shape: What is done, to what.
        target: What it has to reach.
        quick: ``make bench`` runs it.
        fresh: Results are kept while the clock runs, so that each lies in fresh memory.
        series: Cases of one series differ in the size of the table: they are drawn as a line.
        like: The name of the case whose GB/s this one has to come near.
    """

    family: str
    name: str
    work: Work
    shape: Shape
    target: Target = targets.UNRANKED
    quick: bool = False
    fresh: bool = False
    series: str = ""
    like: str = ""


def count(number: int) -> str:
    """Returns a number as names have it: 64Ki, 1M, 10k."""
    for unit, suffix in ((10**6, "M"), (K, "Ki"), (10**3, "k")):
        if number % unit == 0:
            return f"{number // unit}{suffix}"
    return str(number)


def named(shape: Shape) -> str:
    """Returns the part of a name that says the shape."""
    bags = f" B={count(shape.bags)}" if shape.bags else ""
    kind = f"{shape.distribution}{' ragged' if shape.ragged else ''}"
    return (
        f"N={count(shape.rows)} D={shape.width} n={count(shape.lookups)}{bags} {shape.dtype} {kind}"
    )
