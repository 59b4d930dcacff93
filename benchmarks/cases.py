"""The cases: which work, on which shapes, and what it has to reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import targets
from backward import Backward
from calls import SmallCall
from case import Case, K, M, named
from cases_training import many_tables, steps
from compiled import Compiled
from forward import Bag, Lookup, Renorm
from inputs import Shape
from targets import Target
from work import Work

BIG_OUTPUT = 32 << 20


def lookups() -> Iterator[Case]:
    """Plain lookups: sizes of the table, widths, dtypes, distributions, large outputs."""
    shapes = [Shape(rows, 64, 64 * K) for rows in (1000, 10_000, 100_000, M, 4 * M, 16 * M)]
    shapes += [Shape(M, width, 16 * K) for width in (16, 32, 100, 128, 256, 300)]
    shapes += [Shape(rows, 16, 64 * K) for rows in (10_000, M, 10 * M)]
    shapes += [Shape(100_000, 768, 8 * K)]
    shapes += [Shape(M, 64, 64 * K, dtype=dtype) for dtype in ("bf16", "fp16")]
    shapes += [Shape(100_000, 128, 32 * K, dtype=dtype) for dtype in ("bf16", "fp64")]
    shapes += [Shape(M, width, 64 * K, distribution="zipf1.05") for width in (16, 64)]
    quick = {(M, 64, "fp32"), (M, 16, "fp32"), (10_000, 16, "fp32"), (1000, 64, "fp32")}
    quick |= {(M, 64, "bf16"), (100_000, 768, "fp32")}
    for shape in shapes:
        narrow = shape.width == 16 and shape.dtype == "fp32"
        series = "lookup D=64" if (shape.width, shape.dtype) == (64, "fp32") else ""
        yield Case(
            "lookup",
            f"lookup {named(shape)}",
            Lookup(),
            shape,
            targets.LOOKUP_NARROW if narrow else targets.LOOKUP,
            quick=((shape.rows, shape.width, shape.dtype) in quick and shape.lookups == 64 * K)
            or shape.width == 768,
            series=series if shape.distribution == "uniform" else "",
        )
    large = [
        Shape(M, 128, 128 * K),
        Shape(M, 64, 256 * K, dtype="bf16"),
        Shape(50_000, 768, 16 * K),
    ]
    large += [Shape(M, 64, 512 * K, distribution="zipf1.05"), Shape(10 * M, 16, M)]
    for shape in large:
        assert shape.lookups * shape.row_bytes >= BIG_OUTPUT, shape
        for fresh in (True, False):
            yield Case(
                "lookup, large output",
                f"lookup {'fresh' if fresh else 'loop'} {named(shape)}",
                Lookup(),
                shape,
                targets.LOOKUP_FRESH if fresh else targets.LOOKUP_LOOP,
                quick=shape.width in (128, 768),
                fresh=fresh,
            )


def bag_target(work: Bag, shape: Shape) -> Target:
    """Returns what bags have to reach."""
    if work.padding or work.strided or shape.dtype == "fp64":
        return targets.BAG_SLOW
    if work.mode == "max":
        return targets.BAG_MAX if shape.dtype == "fp32" else targets.BAG_MAX_16
    return targets.BAG_SUM if work.mode == "sum" else targets.BAG_MEAN


def bags() -> Iterator[Case]:
    """Bags going forward."""
    standard = Shape(M, 64, 64 * K, 4 * K)

    def case(work: Bag, shape: Shape, note: str = "", quick: bool = False) -> Case:
        words = ["bag", work.mode, "weights" if work.weighted else "", note, named(shape)]
        growing = (work, shape.dtype, shape.width) == (Bag(), "fp32", 64) and not shape.ragged
        return Case(
            "bag",
            " ".join(word for word in words if word),
            work,
            shape,
            bag_target(work, shape),
            quick,
            series="bag sum D=64" if growing and shape.distribution == "uniform" else "",
        )

    for rows in (1000, 10_000, 100_000, M, 4 * M, 16 * M):
        yield case(Bag(), dataclasses.replace(standard, rows=rows), quick=rows == M)
    for width in (16, 32, 100, 128, 300, 768):
        shape = Shape(100_000, width, 32 * K, 2 * K)
        yield case(Bag(), shape, quick=width == 16)
        yield case(Bag("mean"), shape)
    ragged = dataclasses.replace(standard, ragged=True, distribution="zipf1.05")
    for mode in ("sum", "mean"):
        yield case(Bag(mode), ragged, quick=mode == "mean")
        for dtype in ("fp32", "bf16", "fp16"):
            shape = dataclasses.replace(standard, dtype=dtype)
            if (mode, dtype) != ("sum", "fp32"):
                yield case(Bag(mode), shape, quick=dtype == "bf16" or mode == "mean")
    for dtype in ("fp32", "bf16", "fp16"):
        shape = dataclasses.replace(standard, dtype=dtype)
        yield case(Bag(weighted=True), shape, quick=dtype == "fp32")
        yield case(Bag("max"), shape, quick=dtype != "fp16")
        yield case(Bag("max", grad=True), shape, "grad", quick=dtype == "fp32")
        yield case(Bag(padding=True), shape, "padding", quick=dtype == "fp32")
    yield case(Bag("mean", padding=True), standard, "padding")
    yield case(Bag("max", padding=True), standard, "padding")
    yield case(Bag(strided=True), standard, "strided", quick=True)
    for mode in ("sum", "mean"):
        yield case(Bag(mode), dataclasses.replace(standard, dtype="fp64"), quick=mode == "sum")


def dense_gradients() -> Iterator[Case]:
    """Gradients as large as the table."""
    for bag, weighted in ((None, False), ("sum", False), ("mean", False), ("sum", True)):
        for shape in (
            Shape(M, 64, 64 * K, 4 * K if bag else 0),
            Shape(50_000, 768, 8 * K, 512 if bag else 0, distribution="zipf1.05"),
            Shape(M, 64, 64 * K, 4 * K if bag else 0, "bf16"),
        ):
            for fresh in (True, False):
                yield dense_case(Backward(bag, weighted), shape, fresh)
    for shape in (Shape(M, 64, 64 * K, 4 * K), Shape(10_000, 64, 64 * K, 4 * K)):
        yield dense_case(Backward("max"), shape, fresh=False)
    for bag in (None, "sum", "mean"):
        for rows, width in ((1000, 64), (10_000, 64), (50_000, 128), (100_000, 16)):
            shape = Shape(rows, width, 16 * K, K if bag else 0)
            yield dense_case(Backward(bag), shape, fresh=False)


def dense_case(work: Backward, shape: Shape, fresh: bool) -> Case:
    """Returns a case of a dense gradient, which is large or not."""
    large = shape.rows * shape.row_bytes >= BIG_OUTPUT
    kind = f"bag {work.bag}" if work.bag else "lookup"
    way = ("fresh " if fresh else "loop ") if large else ""
    weights = " weights" if work.weighted else ""
    standard = shape.dtype == "fp32" and not work.weighted
    target = targets.DENSE_FRESH if fresh else targets.DENSE_LOOP
    return Case(
        "dense gradient",
        f"dense {kind}{weights} {way}{named(shape)}",
        work,
        shape,
        target if large else targets.DENSE_SMALL,
        quick=standard and work.bag in (None, "sum", "max") and shape.width == 64,
        fresh=fresh,
    )


def sparse_gradients() -> Iterator[Case]:
    """Sparse gradients, coalesced or not; they grow with the lookups and not with the table."""

    def coalesced(shape: Shape, quick: bool, series: str = "") -> Case:
        return Case(
            "sparse gradient",
            f"coalesced lookup {named(shape)}",
            Backward(layout="coalesced"),
            shape,
            targets.SPARSE_COALESCED,
            quick,
            series=series,
        )

    for rows in (10**3, 10**4, 10**5, 10**6, 10**7, 10**8):
        shape = Shape(rows, 16, 64 * K, dtype="bf16" if rows == 10**8 else "fp32")
        yield coalesced(shape, rows in (10**3, 10**5, 10**7), "coalesced lookup D=16")
    for shape in (Shape(M, 64, 64 * K), Shape(50_000, 768, 8 * K, distribution="zipf1.05")):
        yield coalesced(shape, quick=shape.width == 64)
    shape = Shape(M, 64, 64 * K)
    yield Case("sparse gradient", f"sparse lookup {named(shape)}", Backward(layout="sparse"), shape)
    for shape in (Shape(M, 64, 64 * K, 4 * K), Shape(100_000, 128, 16 * K, K)):
        for weighted in (False, True):
            for layout in ("sparse", "coalesced"):
                yield Case(
                    "sparse gradient",
                    f"{layout} bag sum{' weights' if weighted else ''} {named(shape)}",
                    Backward("sum", weighted, layout),
                    shape,
                    targets.BAG_SPARSE if layout == "sparse" else targets.BAG_COALESCED,
                    quick=shape.width == 64 and not weighted,
                )


def norms() -> Iterator[Case]:
    """Renormalisation, alone and before lookups and bags."""
    for shape in (Shape(M, 64, 64 * K), Shape(50_000, 768, 8 * K), Shape(10_000, 64, 64 * K)):
        for scaled in (False, True):
            yield Case(
                "max_norm",
                f"renorm {'scaled' if scaled else 'unscaled'} {named(shape)}",
                Renorm(scaled),
                shape,
                targets.RENORM,
                quick=shape.rows == M,
            )
    for distribution in ("uniform", "zipf1.05"):
        shape = Shape(M, 64, 16 * K, distribution=distribution)
        bag = dataclasses.replace(shape, bags=K)
        quick = distribution == "uniform"
        for work, inputs in ((Lookup(max_norm=True), shape), (Bag(max_norm=True), bag)):
            kind = type(work).__name__.lower()
            name = f"{kind} max_norm {named(inputs)}"
            yield Case("max_norm", name, work, inputs, targets.MAX_NORM, quick)


def small_calls() -> Iterator[Case]:
    """Calls of 1 to 32 indices."""
    ranked = {
        "functional": targets.CALL,
        "module": targets.CALL_MODULE,
        "bag": targets.CALL_BAG,
        "bag module": targets.CALL_BAG,
        "grad": targets.CALL_GRAD,
        "bag grad": targets.CALL_BAG_GRAD,
        "train": targets.UNRANKED,
    }
    for way, target in ranked.items():
        for number in (1, 8, 32):
            shape = Shape(1000, 64, number, max(1, number // 4) if way.startswith("bag") else 0)
            name = f"call {way} {named(shape)}"
            yield Case("one call", name, SmallCall(way), shape, target, quick=number == 8)


def skewed() -> Iterator[Case]:
    """The same amount of work, all on one row or on few."""
    lookup, bag = Shape(M, 64, 64 * K), Shape(M, 64, 64 * K, 4 * K)
    works: list[tuple[str, Work, Shape]] = [
        ("lookup", Lookup(), lookup),
        ("bag sum", Bag(), bag),
        ("bag max", Bag("max"), bag),
        ("coalesced lookup", Backward(layout="coalesced"), lookup),
        ("dense lookup loop", Backward(), lookup),
        ("dense bag sum loop", Backward("sum"), bag),
    ]
    for kind, work, shape in works:
        like = f"{kind} {named(shape)}"
        for distribution in ("one", "zipf1.2"):
            skew = dataclasses.replace(shape, distribution=distribution)
            quick = distribution == "one" and kind in ("bag sum", "coalesced lookup")
            name = f"skew {kind} {named(skew)}"
            yield Case("skew", name, work, skew, quick=quick, like=like)


def compiled() -> Iterator[Case]:
    """Models under torch.compile, small enough for overheads to show and large."""
    quick = ("point", 32)
    large = ((1000, 64, 32), (30_000, 256, K), (100_000, 64, 16 * K))
    works = [
        (model, train, shape)
        for shape in large
        for model in ("point", "linear", "norm", "bag")
        for train in (False, True)
    ]
    # Tables in the caches, and gradients that Inductor makes in the loop that adds them.
    cached = ((1000, 64, K), (30_000, 64, 16 * K), (1000, 64, 64 * K), (30_000, 8, 16 * K))
    works += [("scale", True, shape) for shape in (*cached, (65_000, 1, 16 * K))]
    for model, train, (rows, width, lookups) in works:
        shape = Shape(rows, width, lookups, max(1, lookups // 16) if model == "bag" else 0)
        name = f"compiled {model} {'train ' if train else ''}{named(shape)}"
        work = Compiled(model, train)
        yield Case("compiled", name, work, shape, quick=(model, lookups) == quick)


def huge_pages() -> Iterator[Case]:
    """Tables that ``myemb.huge_pages_`` has moved; PyTorch's stays where it is."""
    for rows in (M, 4 * M):
        lookup, bag = Shape(rows, 64, 64 * K), Shape(rows, 64, 64 * K, 4 * K)
        name = f"pages lookup {named(lookup)}"
        work: Work = Lookup(pages=True)
        yield Case("huge pages", name, work, lookup, targets.PAGES_LOOKUP, rows == M)
        name, work = f"pages bag {named(bag)}", Bag(pages=True)
        yield Case("huge pages", name, work, bag, targets.PAGES_BAG, rows == M)


def all_cases() -> list[Case]:
    """Returns every case, in the order of the report."""
    families = (lookups, bags, dense_gradients, sparse_gradients, norms, steps, many_tables)
    cases = [
        case
        for family in (*families, small_calls, compiled, skewed, huge_pages)
        for case in family()
    ]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases have one name"
    missing = {case.like for case in cases if case.like} - set(names)
    assert not missing, f"no case to compare with: {missing}"
    return cases
