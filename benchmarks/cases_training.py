"""The cases of whole training steps."""

from __future__ import annotations

from collections.abc import Iterator

import targets
from case import Case, K, M, named
from inputs import Shape
from steps import RULES, Step


def steps() -> Iterator[Case]:
    """Steps on large tables, and on small ones, whose dense gradient is the one to beat."""
    for shape in (Shape(M, 64, 64 * K), Shape(50_000, 768, 8 * K), Shape(M, 64, 80 * K, 4 * K)):
        bag = shape.bags > 0
        for rule in RULES:
            yield Case(
                "training step",
                f"step {rule} {'bag ' if bag else ''}{named(shape)}",
                Step(rule, bag, beside_dense=rule == "sgd"),
                shape,
                (targets.STEP_BAG if bag else targets.STEP)[rule],
                quick=rule in ("sgd", "row_wise_adagrad") and shape.width == 64,
            )
    small = [Shape(2000, 16, 4 * K), Shape(4000, 64, 8 * K), Shape(5000, 32, 40 * K, 2 * K)]
    for shape in small:
        bag = shape.bags > 0
        for rule in RULES:
            yield Case(
                "training step, small table",
                f"step small {rule} {'bag ' if bag else ''}{named(shape)}",
                Step(rule, bag, beside_dense=True),
                shape,
                targets.STEP_SMALL,
                quick=rule in ("sgd", "adam") and shape.rows == 4000,
            )
