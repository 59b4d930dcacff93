"""The table of the engines, and the bars of their stages in a plot."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from .training import STAGES, TimedTrainer

if TYPE_CHECKING:  # a run without a plot does not wait for matplotlib
    from matplotlib.axes import Axes

ENGINE_COLOURS = {
    "torch dense": "#c9cdd3",
    "torch sparse": "#f2a35e",
    "myemb dense": "#1f4e9c",
    "myemb fused": "#1f4e9c",
}
STAGE_COLOURS = ("#d9dce1", "#8fb8de", "#3f7fbf", "#1b3a66")


def demo_console() -> Console:
    """What a demo prints on; in a file it has the width of the documents."""
    return Console(width=None if sys.stdout.isatty() else 88, highlight=False)


def engine_table(
    trainers: Sequence[TimedTrainer[Any]],
    results: dict[str, list[str]],
    note: str,
    load: tuple[float, float],
) -> Table:
    """Returns the table of the engines: what each has reached, and the time of its stages.

    Args:
        trainers: the engines, trained.
        results: columns by their heading, with a cell for each engine.
        note: what has to be known to read the columns.
        load: the load average before and after training.
    """
    table = Table(
        title="The same training by each engine",
        box=box.SIMPLE_HEAD,
        padding=0,
        caption=(
            f"{note}\n"
            f"Seconds per epoch: median of {len(trainers[0].epochs)}; "
            "all: the whole training, with evaluation.\n"
            f"Threads: {torch.get_num_threads()} on {os.cpu_count()} cores. Load average: "
            f"{load[0]:.1f} before, {load[1]:.1f} after."
        ),
        caption_justify="left",
    )
    table.add_column("engine", no_wrap=True)
    for column in results:
        table.add_column(column, justify="right")
    for stage in (*STAGES, "epoch"):
        table.add_column(f"{stage}\ns", justify="right", no_wrap=True)
    table.add_column("all\ns", justify="right")
    for row, trainer in enumerate(trainers):
        seconds = [trainer.seconds(stage) for stage in STAGES]
        table.add_row(
            trainer.name,
            *(cells[row] for cells in results.values()),
            *(f"{value:.2f}" for value in (*seconds, sum(seconds))),
            f"{trainer.wall:.1f}",
        )
    return table


def plain_plots() -> None:
    """Lets matplotlib draw into files, in the style of all our pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})


def stage_bars(axes: Axes, trainers: Sequence[TimedTrainer[Any]]) -> None:
    """Draws a bar for each engine: the seconds of an epoch, stage after stage."""
    names = [trainer.name for trainer in trainers]
    start = [0.0] * len(trainers)
    for stage, colour in zip(STAGES, STAGE_COLOURS, strict=True):
        seconds = [trainer.seconds(stage) for trainer in trainers]
        axes.barh(names, seconds, left=start, color=colour, label=stage)
        start = [left + width for left, width in zip(start, seconds, strict=True)]
    for name, total in zip(names, start, strict=True):
        axes.annotate(
            f"{total:.2f} s", (total, name), (5, 0), textcoords="offset points", va="center"
        )
    axes.invert_yaxis()
    axes.set(title="Seconds per epoch", xlim=(0, max(start) * 1.15))
    axes.legend(frameon=False, ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.5, -0.08))
