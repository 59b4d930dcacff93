"""The pictures: a bar for each case, and time against the size of the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from results import Result, Results

COLOURS = {
    "torch": "#ee4c2c",
    "fbgemm": "#8a63d2",
    "myemb": "#1f77b4",
    "limit": "#7f7f7f",
    "lim+huge": "#b0b0b0",
    "lim+sort": "#b0b0b0",
    "lim+typed": "#b0b0b0",
}
BAR = 0.3  # inches for each case


def _bars(axes: Any, results: list[Result]) -> None:
    """Draws the speed of all engines, the limit's being 1."""
    for place, result in enumerate(results):
        unit = result.times[result.limit or "torch"].median
        names = [name for name in ("torch", "fbgemm", "myemb") if name in result.times]
        height = 0.8 / len(names)
        for number, name in enumerate(names):
            speed = unit / result.times[name].median
            top = place - 0.4 + (number + 0.5) * height
            axes.barh(top, speed, height, color=COLOURS[name])
        if result.limit and result.target.limit is not None:
            wanted = result.target.limit
            axes.plot([wanted, wanted], [place - 0.45, place + 0.45], color="black", linewidth=1)
    axes.set_yticks(range(len(results)))
    axes.set_yticklabels([result.case.name for result in results], fontsize=7)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.axvline(1, color=COLOURS["limit"], linewidth=1)
    axes.grid(axis="x", linewidth=0.3)


def ratios(results: Results, family: str, folder: Path) -> Path:
    """Draws a family: a panel for each number of threads."""
    mine = [result for result in results.all if result.case.family == family]
    threads = sorted({result.threads for result in mine})
    height = 1.6 + BAR * len(mine) / len(threads)
    figure, panels = pyplot.subplots(
        1, len(threads), figsize=(5 + 4 * len(threads), height), sharey=True, squeeze=False
    )
    for axes, number in zip(panels[0], threads, strict=True):
        _bars(axes, [result for result in mine if result.threads == number])
        axes.set_title(f"{number} thread{'s' if number > 1 else ''}", fontsize=9)
        axes.set_xlabel("speed; 1 is the limit's (torch's where there is none)", fontsize=8)
    shown = [name for name in ("torch", "fbgemm", "myemb") if any(name in r.times for r in mine)]
    handles: list[Any] = [Patch(color=COLOURS[name]) for name in shown]
    handles.append(Line2D([], [], color="black"))
    figure.legend(handles, [*shown, "wanted"], loc="upper right", fontsize=8, ncols=4)
    figure.suptitle(family, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return _save(figure, folder / f"{_file_name(family)}.png")


def growth(results: Results, folder: Path) -> list[Path]:
    """Draws time against the rows of the table for each series with several sizes."""
    paths = []
    series = dict.fromkeys(result.case.series for result in results.all if result.case.series)
    for name in series:
        mine = [result for result in results.all if result.case.series == name]
        threads = max(result.threads for result in mine)
        mine = sorted(
            (result for result in mine if result.threads == threads),
            key=lambda result: result.case.shape.rows,
        )
        if len(mine) < 2:
            continue
        figure, axes = pyplot.subplots(figsize=(6, 4))
        for engine, colour in COLOURS.items():
            points = [
                (result.case.shape.rows, result.times[engine].median * 1e3)
                for result in mine
                if engine in result.times
            ]
            if points:
                axes.loglog(*zip(*points, strict=True), marker=".", color=colour, label=engine)
        axes.set_xlabel("rows of the table")
        axes.set_ylabel("ms")
        axes.set_title(f"{name}, {threads} threads", fontsize=10)
        axes.grid(linewidth=0.3)
        axes.legend(fontsize=8)
        figure.tight_layout()
        paths.append(_save(figure, folder / f"growth_{_file_name(name)}.png"))
    return paths


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in title)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
