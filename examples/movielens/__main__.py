"""Trains a film recommender with PyTorch's embeddings and with myemb's, and compares the two.

Run it from a checkout with ``make demo``, or ``python -m examples.movielens --help``.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from ..common.training import train_in_turns
from .dataset import TERMS, MovieLens, fetch, load
from .model import Engine
from .report import comparison, films, plot
from .train import Trainer, baseline_auc

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "movielens.png"
ENGINES = ("torch-dense", "torch-sparse", "myemb")
TOLERANCE = 0.001  # how far apart the test AUC of two engines may be


def engine(name: str) -> Engine:
    """Returns one of ENGINES.

    Raises:
        ImportError: if myemb is asked for and not installed.
    """
    if name != "myemb":
        return Engine(
            name.replace("-", " "), nn.Embedding, nn.EmbeddingBag, sparse=name == "torch-sparse"
        )
    import myemb.nn

    # The tables are small enough for dense gradients, which spare the optimiser the sorting.
    return Engine("myemb dense", myemb.nn.Embedding, myemb.nn.EmbeddingBag, sparse=False)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=512)
    # More threads gain little on batches this small, and lose much on a machine with other work.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--user", type=int, default=7, help="who is shown films: 1 to 943")
    parser.add_argument("--no-plot", action="store_true", help=f"do not write {PICTURE.name}")
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
    """Runs the comparison; returns 1 if the engines disagree."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", "Sparse invariant checks")  # torch, about its own optimiser
    console = Console(width=None if sys.stdout.isatty() else 88, highlight=False)
    data = load(fetch())
    describe(data, console)

    before = os.getloadavg()[0]
    trainers = [
        Trainer(data, engine(name), arguments.seed, arguments.batch_size)
        for name in arguments.engines
    ]
    train_in_turns(trainers, arguments.epochs, console)
    console.print(comparison(trainers, (before, os.getloadavg()[0])))

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
