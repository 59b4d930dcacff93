"""What a run shows: the table of the engines, films for a user, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from ..common.report import ENGINE_COLOURS, engine_table, plain_plots, stage_bars
from .dataset import LIKED, MovieLens
from .train import Trainer

ENOUGH_RATINGS = 50


@dataclass(frozen=True)
class Suggestion:
    """A film for a user: how likely they are to like it, and the rating they later gave, if any."""

    title: str
    probability: float
    later: float | None


def comparison(trainers: list[Trainer], load: tuple[float, float]) -> Table:
    """Returns the table of the engines; ``load`` is the load average before and after training."""
    return engine_table(
        trainers,
        {
            "train\nloss": [f"{t.epochs[t.best].loss:.4f}" for t in trainers],
            "chosen\nepoch": [str(t.best + 1) for t in trainers],
            "test\nAUC": [f"{t.epochs[t.best].auc['test']:.4f}" for t in trainers],
        },
        "Chosen by the validation AUC; dense, sparse: the gradients of the tables.",
        load,
    )


def suggest(data: MovieLens, trainer: Trainer, user: int, count: int = 5) -> list[Suggestion]:
    """Returns the films that the best epoch's model shows to a user when the test split begins.

    Films with fewer than ENOUGH_RATINGS are left out: a few enthusiasts say little about a film.

    Args:
        data: the ratings; those of the test split are not known to the model.
        trainer: a finished training.
        user: the number of the user, from 0.
        count: how many films.
    """
    trainer.restore_best()
    known = data.splits["test"].start
    rated = data.film[:known][data.user[:known] == user]
    popular = data.film[:known].bincount(minlength=len(data.titles)) >= ENOUGH_RATINGS
    films = popular.index_fill(0, rated, False).nonzero().squeeze(1)
    users = torch.full_like(films, user)
    scores = trainer.score(data.pairs(users, films, data.history_at("test", users, films)))
    later = {
        int(film): float(rating)
        for whose, film, rating in zip(
            data.user[known:], data.film[known:], data.rating[known:], strict=True
        )
        if whose == user
    }
    best = scores.topk(count).indices
    return [
        Suggestion(data.titles[film], score, later.get(film))
        for film, score in zip(films[best].tolist(), scores[best].tolist(), strict=True)
    ]


def liked_titles(data: MovieLens, user: int, count: int = 5) -> list[str]:
    """Returns the films that a user, counted from 0, rated best before the test split begins."""
    known = data.splits["test"].start
    ratings = ((data.user[:known] == user) & (data.rating[:known] >= LIKED)).nonzero().squeeze(1)
    best = ratings[data.rating[ratings].argsort(descending=True, stable=True)]
    titles = dict.fromkeys(data.titles[film] for film in data.film[best].tolist())
    return list(titles)[:count]  # the data has a few films twice


def films(data: MovieLens, trainer: Trainer, user: int) -> Table:
    """Returns the table of what a user, counted from 0, liked and of what the model shows them."""
    table = Table(title=f"User {user + 1}", box=box.SIMPLE_HEAD)
    table.add_column("liked before")
    table.add_column("the model shows")
    table.add_column("likes it", justify="right")
    table.add_column("rated later", justify="right")
    suggestions = suggest(data, trainer, user)
    before = chain(liked_titles(data, user), repeat(""))
    for film, liked in zip(suggestions, before, strict=False):
        later = "" if film.later is None else "★" * int(film.later)
        table.add_row(liked, film.title, f"{film.probability:.0%}", later)
    return table


def plot(trainers: list[Trainer], path: Path) -> None:
    """Draws the learning curves and the time of each stage into a PNG file."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    plain_plots()
    figure, (loss, auc, bars) = plt.subplots(
        1, 3, figsize=(14, 4.2), width_ratios=(1, 1, 1.5), layout="constrained"
    )
    # The curves coincide when all is well: the later lines are thinner, so that each can be seen.
    widths = [9.0, 5.0, 1.8][-len(trainers) :]
    for trainer, width in zip(trainers, widths, strict=True):
        epochs = range(1, len(trainer.epochs) + 1)
        style = {"color": ENGINE_COLOURS[trainer.name], "linewidth": width}
        loss.plot(epochs, [e.loss for e in trainer.epochs], label=trainer.name, **style)
        for split in ("valid", "test"):
            auc.plot(epochs, [e.auc[split] for e in trainer.epochs], **style)
    chosen = trainers[-1].best
    for split, name in (("valid", "validation"), ("test", "test")):
        point = (1, trainers[-1].epochs[0].auc[split])
        auc.annotate(name, point, (6, -18), textcoords="offset points")
    auc.axvline(chosen + 1, color="#999999", linewidth=1, linestyle=":")
    loss.set(title="Training loss", xlabel="epoch")
    auc.set(title="AUC (dotted: chosen epoch)", xlabel="epoch", ymargin=0.12)
    for axes in (loss, auc):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    loss.legend(frameon=False)

    stage_bars(bars, trainers)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
