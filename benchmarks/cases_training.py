"""The cases of whole training steps, and of many tables."""

from __future__ import annotations

from collections.abc import Iterator

import targets
from case import Case, K, M, count, named
from inputs import Shape, lengths_to
from steps import RULES, Step
from tables import Tables, TablesStep
from targets import Target
from work import Work


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


def many_tables() -> Iterator[Case]:
    """26 tables of 2000 to 1M rows and widths of 16 to 128, about 1 GiB together."""

    def case(kind: str, work: Work, bags: int, longest: int, target: Target, quick: bool) -> Case:
        lookups = int(lengths_to(longest, bags).sum())
        shape = Shape(M, 128, lookups, bags, longest=longest, tables=26)
        lengths = "1" if longest == 1 else f"1..{longest}"
        return Case(
            "tables", f"tables {kind} B={count(bags)} L={lengths}", work, shape, target, quick
        )

    yield case("forward", Tables(), 2 * K, 20, targets.TABLES, quick=True)
    yield case("forward", Tables(), 2 * K, 1, targets.TABLES_ONE, quick=True)
    yield case("forward", Tables(), 128, 1, targets.TABLES_SMALL, quick=True)
    for rule, target in targets.TABLES_STEP.items():
        for longest in (20, 1):
            yield case(
                f"step {rule}", TablesStep(rule), 2 * K, longest, target, quick=longest == 20
            )
