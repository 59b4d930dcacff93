"""The tables: every case, every target, before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results import JUDGED_THREADS, Result, Results, geometric_mean
from rich.table import Table
from targets import UNRANKED
from timing import Spread

ENGINES = ("torch", "torch dense", "fbgemm", "limit", "lim+huge", "lim+sort", "lim+typed", "myemb")
MOST_SPREAD = 0.1  # the middle half of the samples, as a part of the median, before it is flagged


def duration(seconds: float) -> str:
    """Returns a time in the unit in which it has one to three digits before the point."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000 and (factor < 1e9 or seconds * factor < 100):
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def _time(times: Spread | None) -> str:
    return "" if times is None else duration(times.median)


def _ratio(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def verdict(results: Results, result: Result) -> str:
    """Returns whether a case reaches what it has to, coloured."""
    misses = results.misses(result)
    flag = " [yellow]loaded[/]" if result.load.disturbed else ""
    if misses:
        return f"[red]missed[/]: {'; '.join(misses)}{flag}"
    return ("" if result.target is UNRANKED else "[green]met[/]") + flag


def family_table(results: Results, family: str) -> Table:
    """Returns a line for every case of a family and number of threads."""
    table = Table(title=family, title_justify="left", title_style="bold")
    for column in ("case", "t"):
        table.add_column(column, overflow="fold")
    mine = [result for result in results.all if result.case.family == family]
    shown = [name for name in ENGINES if any(name in result.times for result in mine)]
    for column in (*shown, "±", "GB/s"):
        table.add_column(column, justify="right", no_wrap=True)
    has_dense = "torch dense" in shown
    for column in ("x torch", *(["x dense"] * has_dense), "x FBGEMM", "of limit", "x 1t"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("target")
    for result in mine:
        times = result.times
        spread = times["myemb"].spread
        table.add_row(
            result.case.name,
            str(result.threads),
            *(_time(times.get(name)) for name in shown),
            f"[yellow]{spread:.0%}[/]" if spread > MOST_SPREAD else f"{spread:.0%}",
            f"{result.gigabytes:.1f}",
            _ratio(result.speedup("torch")),
            *([_ratio(result.speedup("torch dense"))] * has_dense),
            _ratio(result.speedup("fbgemm")),
            _ratio(result.of_limit),
            _ratio(results.scaling(result)),
            verdict(results, result),
        )
    return table


def summary(results: Results) -> Table:
    """Returns a line for every target: means, the worst, and how many cases reach it."""
    table = Table(title="targets", title_justify="left", title_style="bold")
    table.add_column("work")
    for column in ("met", "x torch, 2 threads", "least", "wanted", "of limit", "least", "wanted"):
        table.add_column(column, justify="right")
    for target in dict.fromkeys(result.target for result in results.all):
        if target is UNRANKED:
            continue
        mine = [result for result in results.all if result.target is target]
        judged = [result for result in mine if result.threads == JUDGED_THREADS]
        speedups = [ratio for each in judged if (ratio := each.speedup("torch")) is not None]
        parts = [part for each in mine if (part := each.of_limit) is not None]
        met = sum(not results.misses(result) for result in mine)
        mean = geometric_mean(speedups)
        enough = target.mean is None or not speedups or mean >= target.mean
        ratios = (("", target.torch), ("mean ", target.mean), ("dense ", target.dense))
        wanted = ", ".join(f"{words}{ratio:g}" for words, ratio in ratios if ratio is not None)
        table.add_row(
            target.name,
            f"[{'green' if met == len(mine) else 'red'}]{met} of {len(mine)}[/]",
            (f"{mean:.2f}" if enough else f"[red]{mean:.2f}[/]") if speedups else "",
            _ratio(min(speedups, default=None)),
            wanted,
            f"{geometric_mean(parts):.2f}" if parts else "",
            _ratio(min(parts, default=None)),
            _ratio(target.limit),
        )
    return table


def conditions(results: Results) -> list[str]:
    """Returns what to know before one believes the tables, a line each."""
    machine = results.machine
    disturbed = sum(result.load.disturbed for result in results.all)
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['capability']}; torch {machine['torch']}, myemb {machine['myemb']}; "
        f"{machine['date']}",
        "Ratios are medians of the ratios within rounds. ±: the middle half of myemb's samples.",
        *results.notes,
    ]
    if disturbed:
        lines.append(
            f"[yellow]The machine was not ours[/]: {disturbed} of {len(results.all)} measurements "
            "had other work beside them (marked loaded). Rerun before you believe them."
        )
    return lines


def comparison(results: Results, path: Path) -> Table:
    """Returns before and after for the cases that both runs have."""
    old = {(row["case"], row["threads"]): row for row in json.loads(path.read_text())["results"]}
    table = Table(title=f"{path.name} and now", title_justify="left", title_style="bold")
    table.add_column("case", overflow="fold")
    table.add_column("t")
    for column in ("before", "now", "faster", "x torch before", "now", "of limit before", "now"):
        table.add_column(column, justify="right")
    for result in results.all:
        row: dict[str, Any] | None = old.get((result.case.name, result.threads))
        if row is None:
            continue
        before, now = row["seconds"]["myemb"]["median"], result.times["myemb"].median
        # Both against torch in their own run: another day's machine is another machine.
        table.add_row(
            result.case.name,
            str(result.threads),
            duration(before),
            duration(now),
            f"{before / now:.2f}",
            _ratio(row["x_torch"]),
            _ratio(result.speedup("torch")),
            _ratio(row["of_limit"]),
            _ratio(result.of_limit),
        )
    return table
