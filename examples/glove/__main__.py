"""Answers analogies with PyTorch's bags and with myemb's, over vectors in a mapped file.

Run it from a checkout with ``make demo-glove``, or ``python -m examples.glove --help``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from rich.console import Console

from ..common.report import demo_console
from .answers import Answers, answer_all
from .dataset import TERMS, Analogies, fetch, read_questions, read_words
from .engines import engines, map_vectors
from .report import answered, comparison, plot
from .vectors import Vectors

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "glove.png"
REQUIRED = 0.49  # of the questions
TEXTS = (
    "frog",
    "violin",
    "tuesday",
    "king man woman",
    "paris france poland",
    "walked walk swim",
    "sushi japan italy",
)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--text",
        nargs="+",
        default=TEXTS,
        help='words, or sums: "king - man + woman", for which "king man woman" is enough',
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-plot", action="store_true", help=f"do not write {PICTURE.name}")
    parser.add_argument("--no-prompt", action="store_true", help="do not ask for words")
    return parser.parse_args()


def judge(answers: dict[str, Answers], analogies: Analogies, console: Console) -> bool:
    """Prints whether the engines agree and know enough."""
    first, *others = answers.values()
    same = all(torch.equal(first.predicted, other.predicted) for other in others)
    good = min(found.share_right(analogies) for found in answers.values()) >= REQUIRED
    console.print(
        f"The answers are {'the same' if same else 'NOT the same'}. bags: looking up those of all "
        f"questions, the median\nof {len(first.seconds)} rounds in turns, "
        f"{torch.get_num_threads()} thread(s), load average {os.getloadavg()[0]:.1f}."
    )
    if not good:
        console.print(f"NOT {REQUIRED:.0%} of them are right.")
    return same and good


def main() -> int:
    """Runs the comparison; returns 1 if the engines disagree or know too little."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    console = demo_console()
    try:
        files = fetch()
    except RuntimeError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    table = map_vectors(files.vectors)
    vectors = Vectors(read_words(files.words), table)
    analogies = read_questions(files.questions, vectors.words)
    console.print(f"[bold]Data[/]   {TERMS}")
    console.print(
        f"[bold]Table[/]  {table.size(0):,} x {table.size(1)}, mapped from {files.vectors.name}"
    )
    console.print(
        f"[bold]Bags[/]   {len(analogies.words):,} questions: a is to b as c is to b - a + c"
    )

    modules = engines(table)
    answers = answer_all(modules, vectors, analogies, console)
    console.print(comparison(answers, analogies))
    passed = judge(answers, analogies, console)
    bags = modules["myemb"]
    console.print(answered(bags, vectors, arguments.text))
    if not arguments.no_plot:
        plot(vectors, PICTURE)
        console.print(f"Neighbourhoods on a plane: {PICTURE}")
    if sys.stdin.isatty() and not arguments.no_prompt:
        while text := ask(console):
            console.print(answered(bags, vectors, [text]))
    return 0 if passed else 1


def ask(console: Console) -> str:
    """Returns what is typed; an empty line, or the end of the input, is "" ."""
    try:
        return console.input("Type words, such as king - man + woman, or nothing to end: ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


if __name__ == "__main__":
    raise SystemExit(main())
