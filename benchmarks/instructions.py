"""How many instructions a lookup takes, with PyTorch and with myemb: callgrind counts them.

Run ``make bench-instructions``; it takes a few minutes and needs valgrind. Counts do not depend on
what else the machine does. Valgrind knows no AVX-512, so both libraries run their AVX2 kernels.

The measured program calls ``getppid`` between phases, and callgrind writes its counters to a new
file whenever that function is entered: a file for each library and shape, with nothing but the
calls in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CALLS = 5
LIBRARIES = ("torch", "myemb")
SHAPES = {
    "lookup, N=100k D=64 n=16Ki": ("lookup", 100_000, 64, 16_384, 0),
    "bag sum, N=100k D=64 n=16Ki, bags of 16": ("bag", 100_000, 64, 16_384, 1024),
    "dense gradient, N=10k D=64 n=16Ki": ("gradient", 10_000, 64, 16_384, 0),
}


def phases() -> None:
    """Runs every library and shape, each between two calls of getppid."""
    import torch
    from backward import Backward
    from engines import MYEMB
    from forward import Bag, Lookup
    from inputs import Inputs, Shape
    from work import TORCH, Work

    torch.set_num_threads(1)
    works: dict[str, Work] = {"lookup": Lookup(), "bag": Bag(), "gradient": Backward()}
    for kind, rows, width, lookups, bags in SHAPES.values():
        inputs = Inputs(Shape(rows, width, lookups, bags))
        for library in (TORCH, MYEMB):
            call = works[kind].call(inputs, library)
            call()
            os.getppid()
            for _ in range(CALLS):
                call()
            os.getppid()


def counts(folder: Path) -> list[int]:
    """Returns the instructions of each part between two calls of getppid, in order."""
    found = []
    # The last file has no number: what came after the last call.
    files = [path for path in folder.glob("out.*") if path.suffix[1:].isdigit()]
    for path in sorted(files, key=lambda each: int(each.suffix[1:])):
        totals = re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.MULTILINE)
        found.append(int(totals.group(1)) if totals else 0)
    return found


def measure() -> dict[str, dict[str, float]]:
    """Returns instructions per lookup, by shape and library."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["valgrind", "--tool=callgrind", "--dump-before=getppid"]
        command += [f"--callgrind-out-file={folder}/out", sys.executable, __file__, "--phases"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SystemExit(f"the program under valgrind failed:\n{run.stderr[-2000:]}")
        # Dumps: before the first phase, in it, between it and the second, in that...
        measured = counts(folder)[1::2]
    if len(measured) < len(SHAPES) * len(LIBRARIES):
        raise SystemExit(
            f"callgrind wrote {len(measured)} phases: does the C library have getppid?"
        )
    results: dict[str, dict[str, float]] = {}
    for number, (title, (*_, lookups, _bags)) in enumerate(SHAPES.items()):
        mine = measured[number * len(LIBRARIES) :]
        results[title] = {
            library: count / (CALLS * lookups)
            for library, count in zip(LIBRARIES, mine, strict=False)
        }
    return results


def main() -> None:
    """Prints the table and writes the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    parser.add_argument("--phases", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phases:
        return phases()
    if shutil.which("valgrind") is None:
        raise SystemExit("no counts: valgrind is not installed")
    from rich.console import Console
    from rich.table import Table

    results = measure()
    table = Table("instructions per lookup (AVX2)", *LIBRARIES, "torch / myemb")
    for title, found in results.items():
        cells = [f"{found[library]:.1f}" for library in LIBRARIES]
        table.add_row(title, *cells, f"{found['torch'] / found['myemb']:.2f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
