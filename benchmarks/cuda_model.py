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
forward or 1.25 backward (1.8 for a row-wise optimizer, which reads the gradient twice and counts it
once), or exceeds `most_issue_time`: half of the time in memory for float32 rows
of at least 512 bytes, which is what a warp reads at once. Narrower rows and narrower types take as
many instructions for fewer bytes; how many more is bounded, too, lest it grow. Optimizer rules have
bounds above these.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "python"))
import simulator  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "cuda_model.png"
WIDTHS = (16, 64, 100, 128, 300, 768)
DTYPES = (torch.float32, torch.bfloat16)
DISTRIBUTIONS = ("uniform", "zipf")
ROWS, BAGS, LENGTH = 20_000, 1_000, 20  # of the table; bags of 0 to 2 * LENGTH lookups
SECTOR = 32
FORWARD, BACKWARD, TWICE = 1.10, 1.25, 1.80  # bytes moved over bytes needed, at most
ISSUE, ISSUE_16_BITS, ISSUE_NARROW = 0.5, 0.75, 1.65  # issue time over memory time, at most
ISSUE_RULE, ISSUE_TWICE = 1.4, 2.4  # times that, for a rule, and for one that adds up twice


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


# ---- what is looked up ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape of input."""

    distribution: str
    width: int
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * self.dtype.itemsize

    @property
    def most_issue_time(self) -> float:
        """The bound of issue time over memory time."""
        if self.row_bytes < 512:
            return ISSUE_NARROW
        return ISSUE if self.dtype == torch.float32 else ISSUE_16_BITS

    def __str__(self) -> str:
        return f"{self.distribution} D={self.width} {str(self.dtype).removeprefix('torch.')}"


class Inputs:
    """The tensors of a case."""

    def __init__(self, case: Case, bags: int = BAGS) -> None:
        random = torch.Generator().manual_seed(case.width)
        lengths = torch.randint(2 * LENGTH + 1, (bags,), generator=random)
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]])
        self.count = int(lengths.sum())
        self.bag_of = torch.arange(bags).repeat_interleave(lengths)
        uniform = torch.rand(self.count, generator=random, dtype=torch.float64)
        if case.distribution == "zipf":
            rank = (ROWS**uniform).long() - 1
            self.indices = torch.randperm(ROWS, generator=random)[rank]
        else:
            self.indices = (ROWS * uniform).long()

        def rows(count: int) -> Tensor:
            return torch.randn(count, case.width, generator=random).to(case.dtype)

        self.weight, self.bag_gradient = rows(ROWS), rows(bags)
        self.row_gradient = rows(self.count)
        self.factors = torch.rand(self.count, generator=random)
        self.positions = torch.empty(0)  # of mode max, filled in by its forward
        self.moments = [torch.zeros(ROWS, case.width) for _ in range(2)]
        self.squares = torch.zeros(ROWS)

    @property
    def sort_bytes(self) -> int:
        """Returns what sorting 32-bit row numbers with 32-bit payloads has to move."""
        passes = -(-ROWS.bit_length() // 8)
        return (4 + passes * 2 * 8) * self.count

    @property
    def touched(self) -> Tensor:
        """Returns the rows that are looked up, each once."""
        return self.indices.unique()


def sectors_of_rows(table: Tensor, rows: Tensor) -> int:
    """Returns the bytes of the sectors that these rows of a table lie in."""
    row_bytes = table.size(1) * table.element_size()
    begin = table.data_ptr() % SECTOR + rows * row_bytes
    return int(((begin + row_bytes - 1) // SECTOR - begin // SECTOR + 1).sum()) * SECTOR


def sectors_of_maxima(inputs: Inputs) -> int:
    """Returns the bytes of the gradient's sectors in which a lookup has a maximum, for each."""
    gradient, positions = inputs.bag_gradient, inputs.positions
    sector = torch.arange(gradient.numel()) * gradient.element_size() // SECTOR
    has = positions.flatten() >= 0
    pairs = torch.stack([positions.flatten()[has], sector[has]])
    return int(pairs.unique(dim=1).size(1)) * SECTOR


# ---- operators -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Torch:
    """The same for PyTorch, by reading its source: docs/cuda_evidence.md says where."""

    launches: str
    scratch: Callable[[Inputs], int]


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator, and what it has to move."""

    name: str
    call: Callable[[Inputs], Any]
    kernel: str  # the kernel that reads the rows
    kernel_needs: Callable[[Inputs], int]  # bytes
    others_need: Callable[[Inputs], int]
    bound: float
    torch: Torch
    issue: float = 1.0  # times the case's most_issue_time: what the operator may take, lest it grow


ops = torch.ops.myemb


def find_maxima(inputs: Inputs) -> None:
    """Runs mode max forward, whose positions its backward takes."""
    _, inputs.positions = ops.embedding_bag_max(inputs.weight, inputs.indices, inputs.offsets)


def bag_gradient_rows(inputs: Inputs) -> int:
    """Returns what reading the gradient of its bag for each lookup, in the order of rows, needs."""
    return sectors_of_rows(inputs.bag_gradient, inputs.bag_of)


def table_rows(inputs: Inputs) -> int:
    """Returns what reading its row for each lookup needs."""
    return sectors_of_rows(inputs.weight, inputs.indices)


def touched_rows(inputs: Inputs) -> int:
    """Returns what accessing every row that is looked up once needs."""
    return sectors_of_rows(inputs.weight, inputs.touched)


def noted_bags(inputs: Inputs) -> int:
    """Returns the bytes to write and to read the bag of each lookup."""
    return 2 * 8 * inputs.count


def pairs(inputs: Inputs) -> int:
    """Returns the bytes of the sorted lookups."""
    return 8 * inputs.count


def torch_sort(inputs: Inputs) -> int:
    """PyTorch sorts 64-bit rows with 64-bit positions: three arrays, and as many for CUB."""
    return 6 * 8 * inputs.count


def torch_partials(inputs: Inputs) -> int:
    """PyTorch sums a row's lookups ten by ten into float32 rows, then these."""
    segments = inputs.count // 10 + min(inputs.count, ROWS)
    return torch_sort(inputs) + 4 * segments * inputs.weight.size(1)


def bag_backward(inputs: Inputs, mode: int, positions: Tensor | None = None) -> Tensor:
    """Runs the dense backward of embedding_bag."""
    gradient, indices, offsets = inputs.bag_gradient, inputs.indices, inputs.offsets
    return ops.embedding_bag_dense_backward(
        gradient, indices, offsets, positions, ROWS, False, mode, None, False, None
    )


def update(inputs: Inputs, states: list[Tensor], **options: Any) -> None:
    """Runs a step of an optimizer by the gradient of bags."""
    ops.embedding_update_(
        inputs.weight.clone(),
        states,
        inputs.bag_gradient,
        inputs.indices,
        inputs.offsets,
        lr=1e-3,
        eps=1e-8,
        **options,
    )


def updater(
    name: str,
    call: Callable[[Inputs], Any],
    states: Callable[[Inputs], int],
    bound: float,
    issue: float,
) -> Operator:
    """Returns a rule, which reads and writes the rows that are looked up, and their states."""
    return Operator(
        f"embedding_update_, {name}",
        call,
        "reduce_runs",
        lambda i: bag_gradient_rows(i) + pairs(i) + 2 * touched_rows(i) + 2 * states(i),
        lambda i: i.indices.nbytes + i.offsets.nbytes + i.sort_bytes,
        bound,
        Torch("-", lambda i: 0),
        issue,
    )


OPERATORS = [
    Operator(
        "embedding",
        lambda i: ops.embedding(i.weight, i.indices),
        "copy_rows",
        lambda i: table_rows(i) + i.indices.nbytes + i.row_gradient.nbytes,
        lambda i: 0,
        FORWARD,
        Torch("1", lambda i: 0),
    ),
    Operator(
        "embedding_bag, sum",
        lambda i: ops.embedding_bag(i.weight, i.indices, i.offsets),
        "reduce_segments",
        lambda i: table_rows(i) + i.indices.nbytes + i.offsets.nbytes + i.bag_gradient.nbytes,
        lambda i: 0,
        FORWARD,
        Torch("1", lambda i: i.indices.nbytes + i.offsets.nbytes),
    ),
    Operator(
        "embedding_bag, max",
        find_maxima,
        "reduce_segments",
        lambda i: (
            table_rows(i)
            + i.indices.nbytes
            + i.offsets.nbytes
            + i.bag_gradient.nbytes
            + 8 * i.bag_gradient.numel()
        ),
        lambda i: 0,
        FORWARD,
        Torch("1", lambda i: i.indices.nbytes + i.offsets.nbytes),
    ),
    Operator(
        "embedding_dense_backward",
        lambda i: ops.embedding_dense_backward(i.row_gradient, i.indices, ROWS),
        "reduce_runs",
        lambda i: (
            sectors_of_rows(i.row_gradient, torch.arange(i.count)) + pairs(i) + touched_rows(i)
        ),
        lambda i: i.indices.nbytes + i.sort_bytes,
        BACKWARD,
        Torch("15 to 20", torch_partials),
    ),
    Operator(
        "embedding_bag backward, sum",
        lambda i: bag_backward(i, 0),
        "reduce_runs",
        lambda i: bag_gradient_rows(i) + pairs(i) + touched_rows(i),
        lambda i: i.indices.nbytes + i.offsets.nbytes + i.sort_bytes,
        BACKWARD,
        Torch("15 to 20", torch_partials),
    ),
    Operator(
        "embedding_bag backward, max",
        lambda i: bag_backward(i, 2, i.positions),
        "reduce_runs",
        lambda i: (
            sectors_of_rows(i.positions, i.bag_of)
            + sectors_of_maxima(i)
            + pairs(i)
            + touched_rows(i)
        ),
        lambda i: i.indices.nbytes + i.offsets.nbytes + noted_bags(i) + i.sort_bytes,
        BACKWARD,
        Torch("2, atomics", lambda i: 0),
    ),
    Operator(
        "embedding_bag sparse backward",
        lambda i: ops.embedding_bag_sparse_backward(
            i.bag_gradient, i.indices, i.offsets, ROWS, False, 0, None, False, None
        ),
        "scale_rows",
        lambda i: i.bag_gradient.nbytes + i.row_gradient.nbytes,
        lambda i: i.indices.nbytes + i.offsets.nbytes + noted_bags(i),
        BACKWARD,
        Torch("2, host sync", lambda i: i.indices.nbytes),
    ),
    Operator(
        "per_sample_weights backward",
        lambda i: ops.embedding_bag_per_sample_weights_backward(
            i.bag_gradient, i.weight, i.indices, i.offsets, None, 0, False, None
        ),
        "dot_rows",
        lambda i: table_rows(i) + i.bag_gradient.nbytes + 4 * i.count,
        lambda i: i.indices.nbytes + i.offsets.nbytes + noted_bags(i),
        BACKWARD,
        Torch("1", lambda i: 0),
    ),
    Operator(
        "embedding_renorm_",
        # Every row is too long, and so is read and written.
        lambda i: ops.embedding_renorm_(i.weight.clone(), i.indices, 1e-3, 2.0),
        "renorm_rows",
        lambda i: 2 * touched_rows(i) + 4 * i.count,
        lambda i: i.indices.nbytes + i.sort_bytes,
        BACKWARD,
        Torch("15 to 20", torch_sort),
    ),
    updater("SGD", lambda i: update(i, [], rule="sgd"), lambda i: 0, BACKWARD, ISSUE_RULE),
    updater(
        "Adam",
        lambda i: update(i, i.moments, rule="adam", beta1=0.9, beta2=0.999),
        lambda i: sum(sectors_of_rows(each, i.touched) for each in i.moments),
        BACKWARD,
        ISSUE_RULE,
    ),
    updater(
        "row-wise Adagrad",
        lambda i: update(i, [i.squares], rule="row_wise_adagrad"),
        lambda i: sectors_of_rows(i.squares.view(-1, 1), i.touched),
        TWICE,
        ISSUE_TWICE,
    ),
]


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
