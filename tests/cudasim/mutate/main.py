"""Breaks the kernels' PTX one instruction at a time and counts how often the tests notice.

Run ``make mutate``, or ``make mutate ARGS='--kernels dot_rows --limit 100'``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from equivalent import Context, why_equivalent
from mutations import Instruction, Mutant, instructions, mutants_of
from registers import Registers
from rich.console import Console
from rich.table import Table
from runner import Killers, observe, outcomes, with_tests

ROOT = Path(__file__).resolve().parents[3]
TESTS = ROOT / "tests" / "python"
sys.path[:0] = [str(TESTS), str(ROOT / "tests" / "sass")]
import simulator  # noqa: E402
from sass import output_of, short_names, tool  # noqa: E402

OBJECTS = simulator.FOLDER / "CMakeFiles" / "_cudasim.dir" / "cuda"
GOAL = 0.95
PROCESSES = 2

# Every template once with each dtype that makes a difference.
REPRESENTATIVES = (
    r"copy_rows<(uint4|unsigned short)>",
    r"reduce_segments<(float, 4|BFloat16, 8|double, 1|Half, 2), Bags<\w+>, .*Sum",
    r"reduce_runs<(float, 4, false|BFloat16, 1, true), Runs<\w+>, RowReader.*StoreRows",
    r"reduce_runs<float, 1, false, Runs<\w+>, WhereMax",
    r"reduce_chunks<float, 4, (Bags|Runs)<\w+>, RowReader.*Sum",
    r"reduce_segments<(float, 4|Half, 1), Bags<\w+>, .*Max",
    r"join_sums<(float, Bags|BFloat16, Runs).*StoreRows",
    r"join_maxima<(float|Half)",
    r"reduce_runs<float, 4, true, .*RowReader.*ApplyRule<float, (Sgd|Adam<float, true)",
    r"reduce_runs<BFloat16, 1, true, .*ApplyRule<BFloat16, SgdMomentum",
    r"join_sums<Half, .*ApplyRule<Half, RowWiseAdagrad",
    r"update_rows<(float, 1|BFloat16, 4), ApplyRule<\w+, Adagrad",
    r"add_mean_squares<(float, 4|Half, 1), Runs",
    r"add_mean_squares<BFloat16, 4, EveryRow",
    r"scale_rows<(float, 4|BFloat16, 1)>",
    r"dot_rows<(float|Half), .*(false|true)>",
    r"renorm_rows<(float, .*(Euclidean|PowerNorm)|double, .*MaxAbs)",
    r"renorm_rows<(BFloat16, .*MinAbs|Half, .*CountNonzero)",
    r"number_lookups<unsigned int",
    r"(find_sources|count_bags|divide_by_frequency)<float>",
    r"mark_maxima<MaximaPlaces|(flag|store)_rows<unsigned int",
    r"check_offsets|count_windows|check_features|count_feature_windows",
    r"(number_tables<float, unsigned int|count_feature_bags<float)",
    r"reduce_segments<(float, 4|Half, 1), FeatureBags<.*(Sum|Max)",
    r"(reduce_chunks<float, 4|join_sums<BFloat16), FeatureBags<.*StoreInTables",
    r"reduce_runs<(float, 4|BFloat16, 1), false, TableRuns<",
    r"reduce_runs<(float, 4, true, .*Adagrad|BFloat16, 1, true, .*SgdMomentum).*ManyTables",
    r"add_mean_squares<(float, 4|Half, 1), TableRuns",
    r"join_sums<(float, TableRuns.*StoreInTables|Half, .*RowWiseAdagrad.*ManyTables)",
)


@dataclasses.dataclass
class Survivor:
    """A mutant that no test noticed."""

    kernel: str
    mutant: Mutant
    source: str  # the file and number of the source line, and the line
    reached: bool  # by any test
    why: str | None  # it is equivalent


def chosen_kernels(arch: int, pattern: str | None) -> dict[str, str]:
    """Returns the kernels to mutate: short names by mangled names."""
    patterns = [pattern] if pattern else REPRESENTATIVES
    mangled = simulator.module.kernels(arch)
    names = dict(zip(mangled, short_names(mangled), strict=True))
    return {
        key: name
        for key, name in sorted(names.items(), key=lambda item: item[1])
        if any(re.search(each, name) for each in patterns) and not name.startswith("cub::")
    }


class Sources:
    """Finds the source line of an instruction; PTX gives only the number of the file."""

    def __init__(self, arch: int) -> None:
        self._files: dict[str, dict[int, Path]] = {}
        for object_file in OBJECTS.glob("*.cu.o"):
            text = output_of(tool("cuobjdump"), "-ptx", "-arch", f"sm_{arch}", object_file)
            files = {
                int(number): Path(path).resolve()
                for number, path in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', text, re.M)
            }
            for kernel in re.findall(r"\.entry\s+(\w+)", text):
                self._files[kernel] = files

    def line(self, kernel: str, locations: tuple[tuple[int, int], ...]) -> str:
        """Returns the first of these places that is in our code."""
        files = self._files.get(kernel, {})
        for number, line in locations:
            file = files.get(number, Path())
            if file.is_relative_to(ROOT) and file.exists():
                return f"{file.name}:{line}: {file.read_text().splitlines()[line - 1].strip()}"
        return "?"


def digest() -> str:
    """Of everything on which it depends which test runs which kernel."""
    content = hashlib.sha256(Path(simulator.module.__file__).read_bytes())
    for file in sorted(TESTS.glob("*.py")):
        content.update(file.read_bytes())
    return content.hexdigest()[:12]


class Report:
    """Counts and prints."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.tried: Counter[str] = Counter()
        self.survivors: list[Survivor] = []

    def counts(self, kernel: str | None = None) -> tuple[int, int, int, int]:
        """Mutants of a kernel, or of all: all, killed, equivalent, survived."""
        mine = [survivor for survivor in self.survivors if kernel in (None, survivor.kernel)]
        equivalent = sum(survivor.why is not None for survivor in mine)
        tried = self.tried.total() if kernel is None else self.tried[kernel]
        return tried, tried - len(mine), equivalent, len(mine) - equivalent

    def line(self, kernel: str) -> str:
        _, killed, equivalent, survived = self.counts(kernel)
        return f"{kernel}: {killed} killed, {equivalent} equivalent, {survived} survived"

    def table(self) -> Table:
        table = Table("kernel", "mutants", "killed", "equivalent", "survived")
        for kernel in sorted(self.tried):
            table.add_row(kernel, *map(str, self.counts(kernel)))
        return table

    @property
    def score(self) -> float:
        tried, killed, equivalent, _ = self.counts()
        return killed / max(tried - equivalent, 1)

    def add(self, survivor: Survivor) -> None:
        self.survivors.append(survivor)
        if survivor.why is None:
            self.print_survivor(survivor)

    def print(self) -> None:
        reasons = Counter(survivor.why for survivor in self.survivors if survivor.why)
        for why, count in reasons.most_common():
            self.console.print(f"{count} equivalent: {why}", markup=False)
        self.console.print(self.table())
        tried, killed, equivalent, survived = self.counts()
        self.console.print(
            f"{tried} mutants, {killed} killed, {equivalent} equivalent, "
            f"{survived} survived: {self.score:.1%} of those not equivalent are killed."
        )

    def print_survivor(self, survivor: Survivor) -> None:
        mutant = survivor.mutant
        self.console.print(
            f"SURVIVED {survivor.kernel}{'' if survivor.reached else ', run by no test'}\n"
            f"  {survivor.source}\n"
            f"  {mutant.kind}: {mutant.before}  ->  {mutant.after or '(nothing)'}",
            markup=False,
            emoji=False,
        )


def condensed(instruction: str) -> str:
    """An instruction without spaces, as the simulator and the mutants both may write it."""
    return re.sub(r"[\s;]", "", instruction)


class Covered:
    """What the tests run of a kernel."""

    def __init__(self, kernel: str, text: str, covered: list[str], sources: Sources) -> None:
        self._kernel, self._text, self._sources = kernel, text, sources
        self._instructions = {condensed(instruction) for instruction in covered}

    def has(self, instruction: Instruction) -> bool:
        return condensed(str(instruction)) in self._instructions

    @functools.cached_property
    def lines(self) -> set[str]:
        """The source lines of which they run an instruction."""
        return {
            self._sources.line(self._kernel, instruction.locations)
            for instruction in instructions(self._text)
            if self.has(instruction)
        }


def mutate(
    items: list[pytest.Item], arch: int, arguments: argparse.Namespace, report: Report
) -> None:
    """Tries the mutants of every chosen kernel."""
    module, sources = simulator.module, Sources(arch)
    report.console.print(f"{len(items)} tests; finding out which kernels each of them runs")
    seen = observe(items, module, arch, ROOT / "build" / "mutate" / f"{digest()}-{arch}.json")
    if len(seen.tests) < len(items):
        report.console.print(
            f"{len(items) - len(seen.tests)} tests fail without mutants and are left out"
        )
    killers = Killers(seen.tests)
    for kernel, name in chosen_kernels(arch, arguments.kernels).items():
        text = module.kernel_ptx(arch, kernel)
        limit = None if arguments.all else arguments.limit

        def replace(mutant: Mutant, kernel: str = kernel, text: str = text) -> None:
            module.settings().instruction_budget = arguments.budget
            module.replace_kernel(arch, kernel, mutant.applied_to(text))

        registers = Registers(text)
        covered = Covered(kernel, text, seen.covered[kernel], sources)
        mutants = mutants_of(text, seed=f"{name}{arguments.seed}", limit=limit)
        for mutant, killed_by in outcomes(kernel, mutants, replace, killers, PROCESSES):
            report.tried[name] += 1
            if killed_by is None:
                source = sources.line(kernel, mutant.before.locations)
                reached = covered.has(mutant.before)
                line_reached = source in covered.lines
                why = why_equivalent(
                    Context(name, mutant, source, registers, reached, line_reached)
                )
                report.add(Survivor(name, mutant, source, reached, why))
        report.console.print(report.line(name), markup=False)


def main() -> int:
    """Prints who survived, and returns 1 if they are too many."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every mutant instead of a sample")
    parser.add_argument("--limit", type=int, default=25, help="mutants of a kernel")
    parser.add_argument("--seed", default="", help="of the sample")
    parser.add_argument("--kernels", help="a regular expression instead of the representatives")
    parser.add_argument(
        "--budget", type=int, default=20_000_000, help="warp instructions of a launch at most"
    )
    arguments = parser.parse_args()
    if not simulator.ARCHITECTURES:
        print("The simulator is not built: it needs nvcc.")
        return 1
    arch = simulator.ARCHITECTURES[0]
    report = Report(Console(width=150, highlight=False))
    with_tests(
        TESTS,
        f"cudasim-{arch}",
        {
            "test_cuda_bits.py",
            "test_cuda_edges.py",
            "test_cuda_tables.py",
            "test_cuda_tables_edges.py",
            "test_cuda_tables_update.py",
            "test_cuda_update.py",
            "test_cuda_update_edges.py",
        },
        lambda items: mutate(items, arch, arguments, report),
    )
    report.print()
    return 0 if report.score >= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
