"""How much memory a training step takes while it runs, beyond the table and its states.

Every engine runs in a process of its own. After a step that has made the states, and when what the
allocators keep has been given back, the kernel's mark of the most memory that was resident
(``VmHWM``) is set back; then comes another step. What it says is how far that step has raised it.

Run ``make bench-memory``. The *output* is what any step has: the rows that were looked up. A fused
step has scratch for sorting the indices besides; other steps have a gradient, dense or sparse.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import re
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from case import Case
from cases import all_cases
from engines import MYEMB
from inputs import Inputs
from rich.console import Console
from rich.progress import track
from rich.table import Table
from steps import Step
from work import TORCH

import myemb

MIB = 1 << 20
THREADS = 2
TABLE_WIDTH = 160
ENGINES = ("torch dense", "torch sparse", "myemb fused")


def resident(name: str) -> int:
    """Returns a figure of this process in bytes: ``VmRSS`` now, ``VmHWM`` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def give_back() -> None:
    """Returns to the system what allocators keep."""
    gc.collect()
    myemb.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)


def measure(case: Case, engine: str) -> int:
    """Returns how many bytes a step adds to what is resident before it."""
    torch.set_num_threads(THREADS)
    assert isinstance(case.work, Step)
    work = dataclasses.replace(case.work, sparse=engine != "torch dense")
    step = work.call(Inputs(case.shape), MYEMB if engine == "myemb fused" else TORCH)
    weight = step()
    weight.grad = None
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def measured(case: Case, engine: str) -> int:
    """Returns the same from a process of its own."""
    command = [sys.executable, __file__, "--measure", case.name, "--engine", engine]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def table_of(cases: list[Case], console: Console) -> Table:
    """Measures, and returns a line for every case."""
    table = Table(title="Memory of a step in MiB", title_justify="left", title_style="bold")
    table.add_column("case", overflow="fold")
    for column in ("table", "output", *ENGINES, "fused beyond output"):
        table.add_column(column, justify="right")
    for case in track(cases, description="cases", console=console):
        shape = case.shape
        output = (shape.bags or shape.lookups) * shape.row_bytes
        found = [measured(case, engine) for engine in ENGINES]
        figures = (shape.rows * shape.row_bytes, output, *found, found[-1] - output)
        table.add_row(case.name, *(f"{figure / MIB:.1f}" for figure in figures))
    return table


def main() -> None:
    """Measures what was asked for, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", default="", metavar="REGEX", help="steps whose names have this")
    parser.add_argument("--measure", metavar="NAME", help="one step, in this process")
    parser.add_argument("--engine", choices=ENGINES, help="for --measure")
    options = parser.parse_args()
    # PyTorch's optimizers build sparse tensors in a way that PyTorch warns of.
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    cases = [case for case in all_cases() if isinstance(case.work, Step)]
    if options.measure:
        print(measure(next(c for c in cases if c.name == options.measure), options.engine))
        return
    console = Console(highlight=False)
    table = table_of([case for case in cases if re.search(options.case, case.name)], console)
    (console if console.is_terminal else Console(width=TABLE_WIDTH, highlight=False)).print(table)


if __name__ == "__main__":
    main()
