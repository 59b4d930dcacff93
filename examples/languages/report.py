"""What a run shows: the table of the engines, identified sentences, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ..common.report import engine_table, plain_plots, stage_bars
from .dataset import NAMES
from .train import Trainer

if TYPE_CHECKING:  # a run without a plot does not wait for matplotlib
    from matplotlib.axes import Axes

SHOWN = 3  # languages of a text
LENGTHS = (5, 10, 15, 20, 30, 40, 60, 80, 120)  # characters that are left of a text for the curve


def comparison(trainers: list[Trainer], load: tuple[float, float]) -> Table:
    """Returns the table of the engines; ``load`` is the load average before and after training."""
    return engine_table(
        trainers,
        {
            "train\nloss": [f"{t.epochs[-1].loss:.4f}" for t in trainers],
            "test\nright": [f"{t.epochs[-1].accuracy:.2%}" for t in trainers],
        },
        "Fused: the rows are updated during the backward pass.",
        load,
    )


def identified(trainer: Trainer, texts: Sequence[str]) -> Table:
    """Returns the table of texts and their most probable languages."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("typed")
    table.add_column("language", style="bold")
    table.add_column("", justify="right", style="bold")
    table.add_column("or else", style="dim")
    for text, likely in zip(texts, trainer.identify(texts), strict=True):
        shares, languages = (column.tolist() for column in likely.topk(SHOWN))
        names = [f"{NAMES[i]} {p:.0%}" for p, i in zip(shares, languages, strict=True) if p >= 0.01]
        # As Text, or brackets in it would be read as markup.
        table.add_row(Text(text), NAMES[languages[0]], f"{shares[0]:.0%}", ", ".join(names[1:]))
    return table


def confusion(trainer: Trainer) -> Tensor:
    """Counts the test snippets by language and prediction: int64 (languages, languages)."""
    labels = trainer.corpus.labels[trainer.corpus.test]
    cells = labels * len(NAMES) + trainer.predict_test()
    return cells.bincount(minlength=len(NAMES) ** 2).view(len(NAMES), len(NAMES))


def mixed_up(counts: Tensor, pairs: int = 3) -> str:
    """Names the pairs of languages that are taken for each other most often."""
    both = (counts + counts.T).triu(1)
    cells = both.flatten().topk(pairs).indices.tolist()
    names = [
        f"{NAMES[cell // len(NAMES)]} and {NAMES[cell % len(NAMES)]} {both.flatten()[cell]}"
        for cell in cells
    ]
    return ", ".join(names)


def accuracy_by_length(trainer: Trainer) -> list[float]:
    """Tests on the first few characters of each test snippet, for each of LENGTHS."""
    corpus = trainer.corpus
    texts = [corpus.texts[number] for number in corpus.test.tolist()]
    accuracy = []
    for length in LENGTHS:
        predicted = trainer.identify([text[:length] for text in texts]).argmax(1)
        accuracy.append((predicted == corpus.labels[corpus.test]).double().mean().item())
    return accuracy


def plot(trainers: list[Trainer], path: Path) -> None:
    """Draws confusions, accuracy and the time of each stage into a PNG file."""
    from matplotlib import pyplot as plt

    plain_plots()
    figure, axes = plt.subplot_mosaic(
        [["confusion", "length"], ["confusion", "bars"]],
        figsize=(14, 7.8),
        width_ratios=(1.25, 1),
        height_ratios=(1.35, 1),
        layout="constrained",
    )
    _draw_confusion(axes["confusion"], confusion(trainers[-1]))
    _draw_lengths(axes["length"], trainers[-1])
    stage_bars(axes["bars"], trainers)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_confusion(axes: Axes, counts: Tensor) -> None:
    """Draws a matrix of shares of each language: (languages, languages)."""
    from matplotlib.colors import LogNorm

    percent = 100 * counts / counts.sum(1, keepdim=True)
    # On a linear scale nothing but the diagonal would be seen.
    image = axes.imshow(percent.clamp(min=0.1), cmap="Blues", norm=LogNorm(0.1, 100))
    for row, column in (percent >= 1).nonzero().tolist():
        value = percent[row, column].item()
        colour = "white" if value > 20 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
    positions = range(len(NAMES))
    axes.set_xticks(positions, NAMES, rotation=90, fontsize=9)
    axes.set_yticks(positions, NAMES, fontsize=9)
    axes.set(title="Test snippets of a language (row) by prediction, percent", xlabel="predicted")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.5, aspect=30, pad=0.02)
    bar.set_ticks([0.1, 1, 10, 100], labels=["≤ 0.1", "1", "10", "100 %"])


def _draw_lengths(axes: Axes, trainer: Trainer) -> None:
    accuracy = accuracy_by_length(trainer)
    axes.plot(LENGTHS, [100 * share for share in accuracy], color="#1f4e9c", marker="o")
    for length, share in zip(LENGTHS, accuracy, strict=True):
        axes.annotate(
            f"{share:.0%}", (length, 100 * share), (4, -15), textcoords="offset points", fontsize=9
        )
    axes.set(
        title="Test accuracy by length of the text, percent",
        xlabel="characters that are left of each snippet",
        ylim=(0, 102),
        xlim=(0, LENGTHS[-1] + 10),
    )
    axes.grid(alpha=0.25)
