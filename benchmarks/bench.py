"""How fast myemb is beside PyTorch, FBGEMM and what the machine can do.

``make bench`` runs a selection of the cases, ``make bench-full`` all; ARGS are the options below.
Engines are timed in turns, so that whatever the machine does meanwhile meets all of them. Every
result is compared with PyTorch's first: nothing wrong is fast.

The limit is a hand-written loop that moves what has to be moved and does nothing else (limit/):
into memory that is mapped already, or into fresh huge pages (lim+huge), or sorting, too (lim+sort).
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import plots
import report
from case import Case
from cases import all_cases
from engines import Reference, WrongResultError, engines_for, limit_loops, start_worker
from fbgemm import UnavailableError, Worker
from inputs import Inputs
from results import Result, Results
from rich.console import Console
from rich.progress import track
from timing import measure

OUTPUT = Path(__file__).resolve().parents[1] / "build" / "bench"
SECONDS, SECONDS_FULL = 1.0, 6.0  # for the rounds of a case at a number of threads
TABLES_WIDTH = 210


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all cases, not a selection")
    parser.add_argument("--case", default="", metavar="REGEX", help="cases whose names have this")
    parser.add_argument("--threads", default="1,2", metavar="LIST", help="default: 1,2")
    parser.add_argument("--rounds", type=int, default=0, help="of all engines (11; 21 in full)")
    parser.add_argument("--json", type=Path, default=OUTPUT / "bench.json", metavar="FILE")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an older --json: before, now")
    parser.add_argument("--plots", type=Path, default=OUTPUT, metavar="FOLDER")
    parser.add_argument("--no-fbgemm", action="store_true", help="leave FBGEMM out")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    return parser.parse_args()


def selected(options: argparse.Namespace) -> list[Case]:
    """Returns the cases that were asked for: by name among all of them, or the selection."""
    everything = options.full or bool(options.case)
    cases = [case for case in all_cases() if everything or case.quick]
    return [case for case in cases if re.search(options.case, case.name)]


def run_case(
    case: Case,
    threads: list[int],
    watch: machine.Watch,
    worker: Worker | None,
    rounds: tuple[int, float],
) -> Iterator[Result]:
    """Measures a case at each number of threads."""
    inputs = Inputs(case.shape)
    reference = Reference(case, inputs)
    for number in threads:
        engines = engines_for(case, inputs, reference, number, worker)
        watch.start()
        times = measure(engines, *rounds, keep=case.fresh)
        yield Result(case, number, case.work.moved(inputs), times, watch.stop())


def spinner(loops: Any) -> Callable[[int], object]:
    """Returns arithmetic to compare the machine's speed by: the limit's, or Python's own."""
    if isinstance(loops, str):
        return lambda steps: sum(range(steps // 20))
    spin: Callable[[int], object] = loops.spin
    return spin


def run(options: argparse.Namespace, console: Console) -> Results:
    """Measures what was asked for."""
    results = Results(machine.describe())
    with console.status("compiling the loops of the limit, if they have changed"):
        loops = limit_loops()
    if isinstance(loops, str):
        results.notes.append(f"The limit is left out: {loops}")
    worker, why = (None, "FBGEMM is left out: --no-fbgemm") if options.no_fbgemm else start_worker()
    if why:
        results.notes.append(why)
    pids = [os.getpid(), *([worker.pid] if worker else [])]
    watch = machine.Watch(spinner(loops), pids)
    threads = [int(number) for number in options.threads.split(",")]
    rounds = options.rounds or (21 if options.full else 11)
    budget = SECONDS_FULL if options.full else SECONDS
    for case in track(selected(options), description="cases", console=console):
        try:
            results.all.extend(run_case(case, threads, watch, worker, (rounds, budget)))
        except WrongResultError as error:
            results.notes.append(f"[red]WRONG[/] {case.name}: {error}")
        except UnavailableError as error:
            results.notes.append(f"FBGEMM is left out from {case.name} on: {error}")
            worker = None
    if worker is not None:
        worker.close()
    return results


def main() -> int:
    """Measures, prints the tables, writes the numbers and draws; 1 if a result was wrong."""
    options = arguments()
    console = Console(highlight=False)
    if options.list:
        for case in selected(options):
            console.print(f"{case.name}  [dim]{case.target.name}[/]")
        return 0
    # PyTorch's optimizers build sparse tensors in a way that PyTorch warns of.
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    results = run(options, console)
    tables = console if console.is_terminal else Console(width=TABLES_WIDTH, highlight=False)
    for family in results.families():
        tables.print(report.family_table(results, family))
        plots.ratios(results, family, options.plots)
    tables.print(report.summary(results))
    if options.compare:
        tables.print(report.comparison(results, options.compare))
    plots.growth(results, options.plots)
    results.save(options.json)
    for line in report.conditions(results):
        console.print(line)
    console.print(f"Numbers: {options.json}; plots: {options.plots}")
    return int(any("WRONG" in note for note in results.notes))


if __name__ == "__main__":
    raise SystemExit(main())
