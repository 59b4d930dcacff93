"""Trains a language identifier with PyTorch's embeddings and with myemb's, and compares the two.

Run it from a checkout with ``make demo-languages``, or ``python -m examples.languages --help``.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch
from rich.console import Console

from ..common.report import demo_console
from ..common.training import train_in_turns, training_parser
from .dataset import LANGUAGES, TERMS, Corpus, fetch, load
from .engines import ENGINES, engine
from .model import DIM
from .ngrams import LONGEST, NUM_ROWS
from .report import comparison, confusion, identified, mixed_up, plot
from .train import Trainer

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "languages.png"
TOLERANCE = 0.002  # how far apart the test accuracy of two engines may be
REQUIRED = 0.95  # the test accuracy that every engine has to reach

# Written for this, and not about computers, which is all that the manuals are about.
SENTENCES = Path(__file__).with_name("sentences.txt")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = training_parser((__doc__ or "").splitlines()[0], 3, ENGINES, PICTURE)
    parser.add_argument("--text", nargs="+", help="identify these sentences")
    parser.add_argument("--no-prompt", action="store_true", help="do not ask for sentences")
    return parser.parse_args()


def describe(corpus: Corpus, console: Console) -> None:
    """Prints what the data is, its terms, and the size of the model."""
    per_bag = len(corpus.bags.indices) / len(corpus.texts)
    lookups = int(corpus.bags.offsets.diff()[corpus.train].sum())
    console.print(f"[bold]Data[/]   {TERMS}")
    console.print(
        f"[bold]Split[/]  by random paragraphs: {len(corpus.train):,} snippets to train, "
        f"{len(corpus.test):,} to test. They are\nof the same manuals: on other subjects it will "
        "be right less often."
    )
    console.print(
        f"[bold]Model[/]  {len(LANGUAGES)} languages, a table of {NUM_ROWS:,} x {DIM}, {lookups:,} "
        f"lookups an epoch:\n{per_bag:.0f} n-grams of 1 to {LONGEST} characters a snippet"
    )


def judge(trainers: list[Trainer], console: Console) -> bool:
    """Prints whether the engines agree and are good enough, and how much faster the last one is."""
    accuracy = [trainer.epochs[-1].accuracy for trainer in trainers]
    first, last = trainers[0], trainers[-1]
    apart = max(accuracy) - min(accuracy)
    agree, good = apart <= TOLERANCE, min(accuracy) >= REQUIRED
    if first is not last:
        console.print(
            f"The accuracies are {apart:.4%} apart: {'within' if agree else 'NOT within'} "
            f"{TOLERANCE:.1%}. {last.name} trains {first.wall / last.wall:.1f} times as fast as "
            f"{first.name}."
        )
    if not good:
        console.print(f"The accuracy is NOT at least {REQUIRED:.0%}.")
    console.print(f"Test snippets of languages taken for each other: {mixed_up(confusion(last))}.")
    return agree and good


def ask(trainer: Trainer, console: Console) -> None:
    """Identifies sentences as they are typed, until an empty line."""
    while True:
        try:
            text = console.input("Type a sentence, or nothing to end: ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not text:
            break
        console.print(identified(trainer, [text]))


def main() -> int:
    """Runs the comparison; returns 1 if the engines disagree or are not good enough."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", "Sparse invariant checks")  # torch, about its own optimiser
    console = demo_console()
    try:
        corpus = load(fetch())
    except RuntimeError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    describe(corpus, console)

    trainers = [
        Trainer(corpus, engine(name), arguments.seed, arguments.batch_size)
        for name in arguments.engines
    ]
    load_average = train_in_turns(trainers, arguments.epochs, console)
    console.print(comparison(trainers, load_average))
    passed = judge(trainers, console)
    texts = arguments.text or SENTENCES.read_text(encoding="utf-8").splitlines()
    console.print(identified(trainers[-1], texts))
    if not arguments.no_plot:
        plot(trainers, PICTURE)
        console.print(f"Confusions, accuracy by length and times: {PICTURE}")
    if sys.stdin.isatty() and not arguments.no_prompt:
        ask(trainers[-1], console)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
