"""Trains a film recommender with PyTorch's embeddings and with myemb's, and compares the two.

Run it from a checkout with ``make demo``, or ``python -m examples.movielens --help``.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from rich.console import Console

from ..common.report import demo_console
from ..common.training import train_in_turns, training_parser
from .dataset import TERMS, MovieLens, fetch, load
from .engines import ENGINES, engine
from .report import comparison, films, plot
from .train import Trainer, baseline_auc, time_tables

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "movielens.png"
TOLERANCE = 0.001  # how far apart the test AUC of two engines may be


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = training_parser((__doc__ or "").splitlines()[0], 6, ENGINES, PICTURE)
    parser.add_argument("--user", type=int, default=7, help="who is shown films: 1 to 943")
    return parser.parse_args()


def describe(data: MovieLens, console: Console) -> None:
    """Prints what the data is, and its terms."""
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in data.splits.items())
    rows = sum(data.num_rows.values())
    lookups = data.batch(torch.arange(len(data.splits["train"]))).lookups
    console.print(f"[bold]Data[/]   {TERMS}")
    console.print(f"[bold]Split[/]  by time, of each user's ratings: {sizes}")
    console.print(
        f"[bold]Model[/]  {len(data.num_rows)} tables, {rows:,} rows, {lookups:,} lookups an epoch"
    )


def main() -> int:
    """Runs the comparison; returns 1 if the engines disagree, or without data."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", "Sparse invariant checks")  # torch, about its own optimiser
    console = demo_console()
    try:
        data = load(fetch())
    except RuntimeError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    describe(data, console)

    trainers = [
        Trainer(data, engine(name), arguments.seed, arguments.batch_size)
        for name in arguments.engines
    ]
    load_average = train_in_turns(trainers, arguments.epochs, console)
    tables = time_tables(trainers)
    console.print(comparison(trainers, tables, load_average))

    auc = [trainer.epochs[trainer.best].auc["test"] for trainer in trainers]
    apart = max(auc) - min(auc)
    agree = apart <= TOLERANCE
    console.print(
        f"The test AUCs are {apart:.6f} apart: {'within' if agree else 'NOT within'} {TOLERANCE}.\n"
        f"A baseline, the mean ratings of user and film added, has {baseline_auc(data):.4f}."
    )
    console.print(films(data, trainers[-1], arguments.user - 1))
    if not arguments.no_plot:
        plot(trainers, PICTURE)
        console.print(f"Learning curves and times: {PICTURE}")
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
