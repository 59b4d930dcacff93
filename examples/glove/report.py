"""What a run shows: the table of the engines, words and their neighbours, and a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from ..common.report import plain_plots
from .answers import Answers, answer
from .dataset import Analogies
from .vectors import Vectors

if TYPE_CHECKING:  # a run without a plot does not wait for matplotlib
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

NEIGHBOURS = 6
NEIGHBOURHOODS = ("violin", "salmon", "castle", "storm")
DRAWN = 10  # neighbours of each
COLOURS = ("#1f4e9c", "#c2571a", "#8a3f8f", "#2f7d4f")
CAPITALS = (
    ("france", "paris"),
    ("germany", "berlin"),
    ("italy", "rome"),
    ("spain", "madrid"),
    ("poland", "warsaw"),
    ("russia", "moscow"),
    ("greece", "athens"),
    ("turkey", "ankara"),
    ("japan", "tokyo"),
    ("china", "beijing"),
    ("egypt", "cairo"),
    ("portugal", "lisbon"),
)


def comparison(answers: dict[str, Answers], analogies: Analogies) -> Table:
    """Returns the table of the engines: the questions that are answered right, and the time."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for column in ("engine", "right", "of meaning", "of grammar", "bags, ms"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for name, found in answers.items():
        parts = (None, analogies.semantic, ~analogies.semantic)
        shares = [f"{found.share_right(analogies, which):.2%}" for which in parts]
        table.add_row(name, *shares, f"{found.milliseconds:.2f}")
    return table


def answered(bags: nn.EmbeddingBag, vectors: Vectors, texts: Iterable[str]) -> Table:
    """Returns the table of what was typed and the nearest words."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("typed")
    table.add_column("nearest", style="bold")
    table.add_column("", justify="right")
    table.add_column("and then", style="dim")
    for text in texts:
        # As Text, or brackets in it would be read as markup.
        try:
            (first, cosine), *others = answer(bags, vectors, text, NEIGHBOURS)
        except KeyError as error:
            reason = f"no vector for {error.args[0]}" if error.args[0] else "no word"
            table.add_row(Text(text), Text(reason, style="red"), "", "")
            continue
        rest = ", ".join(word for word, _ in others)
        table.add_row(Text(text), Text(first), f"{cosine:.2f}", Text(rest))
    return table


def project(points: Tensor) -> Tensor:
    """Returns the two principal components of points: (N, D) to (N, 2)."""
    centred = points - points.mean(0)
    axes: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh
    return centred @ axes[:2].T


def plot(vectors: Vectors, path: Path) -> None:
    """Draws neighbourhoods, and countries with their capitals, into a PNG file."""
    from matplotlib import pyplot as plt

    plain_plots()
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 7), layout="constrained")
    _draw_neighbourhoods(left, vectors)
    _draw_capitals(right, vectors)
    for axes in (left, right):
        axes.set(xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.margins(0.07)
    for axes in (left, right):
        _spread_labels(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _spread_labels(axes: Axes) -> None:
    """Moves labels down until none lies on another; the highest one stays."""
    from matplotlib.text import Annotation

    axes.figure.canvas.draw()  # decides where everything is
    placed: list[Bbox] = []
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    for label in sorted(labels, key=lambda label: -label.get_window_extent().y0):
        box = label.get_window_extent()
        while any(box.overlaps(other) for other in placed):
            label.xyann = (label.xyann[0], label.xyann[1] - 1)
            box = label.get_window_extent()
        placed.append(box)


def _directions(vectors: Vectors, words: list[str]) -> Tensor:
    rows = torch.tensor([vectors.rows[word] for word in words])
    return vectors.table[rows] / vectors.norms[rows, None]


def _draw_neighbourhoods(axes: Axes, vectors: Vectors) -> None:
    """Draws words and their neighbours on the plane that shows them best."""
    groups = []
    for word in NEIGHBOURHOODS:
        row = vectors.rows[word]
        near = vectors.nearest(vectors.table[row], [row], DRAWN)
        groups.append([word, *(neighbour for neighbour, _ in near)])
    places = project(_directions(vectors, [word for group in groups for word in group]))
    for group, points, colour in zip(
        groups, places.view(len(groups), DRAWN + 1, 2), COLOURS, strict=True
    ):
        axes.scatter(points[:, 0], points[:, 1], s=14, color=colour, alpha=0.6)
        for word, (x, y) in zip(group, points.tolist(), strict=True):
            centre = word == group[0]
            axes.annotate(
                word,
                (x, y),
                (4, 2),
                textcoords="offset points",
                color=colour,
                fontsize=13 if centre else 9,
                fontweight="bold" if centre else "normal",
            )
    axes.set_title(f"{len(groups)} words and their {DRAWN} nearest")


def _draw_capitals(axes: Axes, vectors: Vectors) -> None:
    """Draws a line from each country to its capital."""
    places = project(_directions(vectors, [word for pair in CAPITALS for word in pair]))
    for pair, points in zip(CAPITALS, places.view(len(CAPITALS), 2, 2), strict=True):
        axes.plot(points[:, 0], points[:, 1], color="#c9cdd3", linewidth=1, zorder=0)
        for word, point, colour in zip(pair, points.tolist(), COLOURS[:2], strict=False):
            axes.scatter(point[0], point[1], s=18, color=colour)
            axes.annotate(
                word.capitalize(), point, (5, 3), textcoords="offset points", color=colour
            )
    axes.set_title("Countries and their capitals")
