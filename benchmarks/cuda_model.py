"""What the CUDA kernels move, against what they have to: counted on the simulator, without a GPU.

Every operator runs on uniform and on Zipf-distributed indices, for several widths, in float32 and
bfloat16; the simulator counts the instructions of each warp and the 32-byte sectors of each access.

*Moved* are the sectors of loads and of stores that miss 16 KiB caches of the block: a load does not
go to memory again soon after, and the L2 cache joins stores to parts of a sector.

*Needed* are, each once: the sectors of the table row that each lookup reads, or of the gradient's
row where lookups are taken in the order of table rows; indices, offsets, the output. Where lookups
are sorted, row numbers are read once to count their digits, and a pair of row number and payload (8
bytes) is written and read in each pass, of which there are ceil(bits / 8); where their bag is
noted, its 8 bytes are written and read once. Of a dense gradient only the touched rows count:
filling it with zeros is a memset, which nobody is spared.

The *model* says that an operator is as fast as memory is if issuing its instructions, one per cycle
for each of four schedulers of an SM, takes at most half the time that memory takes for the bytes it
needs.

Run ``make bench-cuda-model``. It fails if an operator moves more than 1.10 of the bytes it needs
forward or 1.25 backward (1.4 in mode max, whose bits are less than the sectors that they are in;
1.8 for a row-wise optimizer, which reads the gradient twice and counts it once), or exceeds
`most_issue_time`: half of the time in memory for float32 rows of at least 512 bytes, which is what
a warp reads at once. Narrower rows and narrower types take as
many instructions for fewer bytes; how many more is bounded, too, lest it grow. Optimizer rules have
bounds above these.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "python"))
import simulator  # noqa: E402
from cuda_model_operators import (  # noqa: E402
    BAGS,
    ISSUE,
    ISSUE_16_BITS,
    ISSUE_NARROW,
    SECTOR,
    SINGLE_OPERATORS,
    Case,
    Inputs,
    Operator,
)
from cuda_model_tables import TABLE_OPERATORS  # noqa: E402

OPERATORS = [*SINGLE_OPERATORS, *TABLE_OPERATORS]
PICTURE = ROOT / "docs" / "images" / "cuda_model.png"
WIDTHS = (16, 64, 100, 128, 300, 768)
DTYPES = (torch.float32, torch.bfloat16)
DISTRIBUTIONS = ("uniform", "zipf")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What the model knows of a GPU."""

    sms: int
    clock: float  # Hz, of the boost
    bandwidth: float  # bytes a second

    def issue_seconds(self, warp_instructions: int) -> float:
        """Returns the time to issue them: four a cycle on each SM."""
        return warp_instructions / (4 * self.sms * self.clock)


GPUS = {
    "A100": Gpu(108, 1.41e9, 2.04e12),
    "H100": Gpu(132, 1.83e9, 3.35e12),
    "B200": Gpu(148, 1.85e9, 8.0e12),
}


# ---- what the simulator counted ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Count:
    """What some launches did."""

    launches: int
    warp_instructions: int
    moved: int  # bytes


def count(launches: list[dict[str, Any]]) -> Count:
    """Adds up what the simulator says of launches."""
    sites = [site for launch in launches for site in launch["sites"] if not site["shared"]]
    sectors = sum(site["sectors"] if site["atomic"] else site["misses"] for site in sites)
    return Count(
        len(launches), sum(launch["warp_instructions"] for launch in launches), sectors * SECTOR
    )


@dataclasses.dataclass(frozen=True)
class Result:
    """What an operator did in a case."""

    operator: Operator
    case: Case
    whole: Count
    kernel: Count
    needed: int
    kernel_needed: int
    scratch: int
    torch_scratch: int

    @property
    def ratio(self) -> float:
        """Bytes moved over bytes needed."""
        return self.whole.moved / self.needed

    @property
    def kernel_ratio(self) -> float:
        """The same of the kernel that reads the rows."""
        return self.kernel.moved / self.kernel_needed

    def issue_over_memory(self, gpu: Gpu) -> float:
        """Returns the time to issue the instructions over that to move the bytes needed."""
        return gpu.issue_seconds(self.whole.warp_instructions) / (self.needed / gpu.bandwidth)

    def broken(self) -> Iterator[str]:
        """Says which bounds do not hold."""
        issue = self.issue_over_memory(GPUS["H100"])
        if self.ratio > self.operator.bound:
            yield f"{self.operator.name}, {self.case}: moves {self.ratio:.3f} of the bytes needed"
        if issue > self.case.most_issue_time * self.operator.issue:
            yield f"{self.operator.name}, {self.case}: issue time {issue:.2f} of the time in memory"


def measure(case: Case, bags: int = BAGS) -> Iterator[Result]:
    """Runs every operator on the simulator."""
    inputs = Inputs(case, bags)
    for operator in OPERATORS:
        with simulator.simulation(simulator.ARCHITECTURES[-1]) as module:
            module.settings().check = False  # tests look for bugs; here it would cost time
            module.settings().trace = True
            operator.call(inputs)
            (call,) = module.calls()
        launches = call["launches"]
        readers = [
            each for each in launches if re.search(rf"\b{operator.kernel}\b", each["kernel"])
        ]
        kernel_needed = operator.kernel_needs(inputs)
        yield Result(
            operator,
            case,
            count(launches),
            count(readers),
            kernel_needed + operator.others_need(inputs),
            kernel_needed,
            call["scratch_bytes"],
            operator.torch.scratch(inputs),
        )


# ---- table and plot ------------------------------------------------------------------------------


HEADINGS = (
    "operator",
    "moved / needed",
    "issue / memory: fp32",
    "bf16",
    "narrow",
    "kernels",
    "torch's",
    "scratch MB",
    "torch's",
)


def summary_rows(results: list[Result]) -> Iterator[tuple[str, ...]]:
    """Yields a line for each operator, with the worst of all cases."""
    for operator in OPERATORS:
        mine = [result for result in results if result.operator is operator]
        largest = max(mine, key=lambda result: result.scratch + result.torch_scratch)
        worst = {
            bound: max(
                (
                    result.issue_over_memory(GPUS["H100"])
                    for result in mine
                    if result.case.most_issue_time == bound
                ),
                default=0.0,
            )
            for bound in (ISSUE, ISSUE_16_BITS, ISSUE_NARROW)
        }
        yield (
            operator.name,
            f"{max(result.ratio for result in mine):.2f}",
            *(f"{issue:.2f}" for issue in worst.values()),
            str(max(result.whole.launches for result in mine)),
            operator.torch.launches,
            f"{largest.scratch / 1e6:.1f}",
            f"{largest.torch_scratch / 1e6:.1f}",
        )


def summary(results: list[Result]) -> Table:
    """Returns the table of the worst of all cases; the model is that of an H100."""
    table = Table(*HEADINGS, title="Worst of all cases")
    for row in summary_rows(results):
        table.add_row(*row)
    return table


def markdown(results: list[Result]) -> str:
    """Returns the same table for docs/cuda_evidence.md."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *summary_rows(results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def details(results: list[Result]) -> Table:
    """Returns a line for each operator and case."""
    table = Table("operator", "case", "moved / needed", "its row kernel", "issue / memory H100")
    for result in results:
        table.add_row(
            result.operator.name,
            str(result.case),
            f"{result.ratio:.3f}",
            f"{result.kernel_ratio:.3f}",
            f"{result.issue_over_memory(GPUS['H100']):.2f}",
        )
    return table


def plot(results: list[Result], path: Path) -> None:
    """Draws both ratios of every operator over the width of a row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(OPERATORS), figsize=(26, 6), sharex=True, sharey="row")
    for column, operator in enumerate(OPERATORS):
        for distribution in DISTRIBUTIONS:
            for dtype in DTYPES:
                line = [
                    result
                    for result in results
                    if result.operator is operator
                    and (result.case.distribution, result.case.dtype) == (distribution, dtype)
                ]
                widths = [str(result.case.width) for result in line]
                style = {
                    "color": "C0" if dtype == torch.float32 else "C1",
                    "linestyle": "-" if distribution == "uniform" else ":",
                    "marker": ".",
                    "label": f"{str(dtype).removeprefix('torch.')}, {distribution}",
                }
                issue = [result.issue_over_memory(GPUS["H100"]) for result in line]
                axes[0, column].plot(widths, [result.ratio for result in line], **style)
                axes[1, column].plot(widths, issue, **style)
        axes[0, column].set_title(textwrap.fill(operator.name.replace("_", " "), 18), fontsize=9)
        axes[1, column].tick_params(axis="x", rotation=90)
        axes[0, column].axhline(operator.bound, color="0.5", linewidth=0.8)
        axes[1, column].axhline(ISSUE, color="0.5", linewidth=0.8)
        axes[1, column].set_xlabel("width of a row")
    axes[0, 0].set_ylabel("bytes moved / needed")
    axes[1, 0].set_ylabel("issue time / time in memory\n(model of an H100)")
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylim(bottom=0)
    axes[0, 0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> int:
    """Prints the table, draws the plot, and returns 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--details", action="store_true", help="a line for every case")
    parser.add_argument("--markdown", action="store_true", help="the table for the docs")
    parser.add_argument("--no-plot", action="store_true", help=f"do not write {PICTURE.name}")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    if not simulator.ARCHITECTURES:
        console.print("The simulator is not built: it needs nvcc.")
        return 1
    torch.set_num_threads(1)
    cases = [Case(d, w, t) for d in DISTRIBUTIONS for t in DTYPES for w in WIDTHS]
    results = [result for case in track(cases, console=console) for result in measure(case)]
    if arguments.details:
        console.print(details(results))
    if arguments.markdown:
        print(markdown(results))
    else:
        console.print(summary(results))
    broken = [complaint for result in results for complaint in result.broken()]
    console.print("\n".join(broken) or "All bounds hold.")
    if not arguments.no_plot:
        plot(results, PICTURE)
        console.print(f"Plot: {PICTURE}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
