"""What a GPU will run, read from the machine code (SASS) in a library or an object file.

No GPU is needed: ``cuobjdump`` prints each instruction with its encoding, and the encoding says
what the instruction waits for. From that follows how many loads a thread has under way at a time,
and with the registers it uses, how many bytes an SM has under way: what hides the latency of
memory.

Run ``python tests/sass/sass.py LIBRARY [PART OF A NAME]`` for a table.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

THREADS = 256  # of a block, in every kernel of cuda/
LANES = 32


def tool(name: str) -> str:
    """Finds a program of the CUDA toolkit, there or in the wheel of triton, which torch needs.

    Raises:
        FileNotFoundError: if it is in neither.
    """
    homes = [os.environ.get("CUDA_HOME", "/usr/local/cuda")]
    folders = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes)]
    triton = importlib.util.find_spec("triton")
    if triton is not None:
        folders += [f"{at}/backends/nvidia/bin" for at in triton.submodule_search_locations or ()]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise FileNotFoundError(f"{name} is neither on PATH, in CUDA_HOME nor in triton's wheel")
    return found


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def lines_of(*command: str | Path) -> Iterator[str]:
    """While the command still writes: it has a core, and who reads its lines another."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


# ---- GPUs ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The limits of an SM (CUDA programming guide, compute capabilities) and its share of memory.

    ``bandwidth`` and ``sms`` are of the GPU of this architecture with the most bandwidth per SM.
    """

    name: str
    warps: int
    blocks: int
    shared: int  # bytes for blocks
    bandwidth: float  # bytes a second
    sms: int
    registers: int = 64 * 1024
    reserved: int = 1024  # bytes of shared memory that each block costs

    def blocks_per_sm(self, registers: int, shared: int, threads: int = THREADS) -> int:
        """How many blocks of a kernel run on an SM at once."""
        warps = threads // LANES
        per_warp = -(-registers * LANES // 256) * 256
        by_registers = self.registers // 4 // per_warp * 4 // warps  # four schedulers share alike
        by_shared = self.shared // (shared + self.reserved) if shared else self.blocks
        return min(self.blocks, self.warps // warps, by_registers, by_shared)

    def bytes_to_hide(self, latency: float) -> float:
        """Little's law: what an SM has to have under way to use its share of the bandwidth."""
        return self.bandwidth * latency / self.sms


GPUS = {
    75: Gpu("RTX 2080 Ti", 32, 16, 64 * 1024, 616e9, 68, reserved=0),
    80: Gpu("A100 80 GB", 64, 32, 164 * 1024, 2039e9, 108),
    90: Gpu("H100 SXM", 64, 32, 228 * 1024, 3350e9, 132),
    100: Gpu("B200", 64, 32, 228 * 1024, 8000e9, 148),
    120: Gpu("RTX 5090", 48, 24, 100 * 1024, 1792e9, 170),
}


# ---- instructions --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of SASS.

    A load announces the arrival of its result on one of six barriers; who needs the result waits
    for that barrier. Both are bits of the encoding (the same since Volta).
    """

    address: int
    text: str  # without predicate
    predicate: str
    control: int

    @property
    def opcode(self) -> str:
        return self.text.split(maxsplit=1)[0]

    def is_a(self, *families: str) -> bool:
        """Whether the opcode without its modifiers is one of these."""
        return self.opcode.split(".")[0] in families

    @property
    def announces(self) -> int | None:
        barrier = self.control >> 5 & 7
        return None if barrier == 7 else barrier

    @property
    def waits_for(self) -> list[int]:
        return [barrier for barrier in range(6) if self.control >> 11 >> barrier & 1]

    @property
    def width(self) -> int:
        """Bytes that a load or a store moves for each thread."""
        sizes = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
        return next((sizes[m] for m in self.opcode.split(".") if m in sizes), 4)

    @property
    def target(self) -> int | None:
        """Where a branch leads."""
        found = re.search(r"0x([0-9a-f]+)$", self.text)
        return int(found[1], 16) if found and self.is_a("BRA") else None


# ---- kernels -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Kernel:
    """One kernel for one architecture."""

    mangled: str
    architecture: int
    registers: int = 0
    stack: int = 0
    shared: int = 0
    instructions: list[Instruction] = dataclasses.field(default_factory=list)
    name: str = ""  # without namespaces and arguments

    def count(self, *families: str) -> int:
        return sum(instruction.is_a(*families) for instruction in self.instructions)

    def widths(self, *families: str) -> Counter[int]:
        """How many accesses of each width there are."""
        return Counter(i.width for i in self.instructions if i.is_a(*families))

    @property
    def spills(self) -> int:
        return self.count("LDL", "STL")

    @property
    def atomics(self) -> int:
        return self.count("ATOM", "ATOMG", "ATOMS", "RED", "REDG")

    @property
    def divisions(self) -> int:
        """64-bit divisions and remainders: a hundred instructions each.

        All of them, and nothing else, begin with a reciprocal of the rounded-up divisor.
        """
        return sum(i.opcode in ("I2F.U64.RP", "I2F.RP.U64") for i in self.instructions)

    @property
    def warps(self) -> int:
        """Warps on an SM at once."""
        gpu = GPUS[self.architecture]
        return gpu.blocks_per_sm(self.registers, self.shared) * THREADS // LANES

    @property
    def occupancy(self) -> float:
        return self.warps / GPUS[self.architecture].warps

    @cached_property
    def row_loop(self) -> list[Instruction]:
        """The innermost loop that reads rows; the whole kernel if no loop loads anything.

        It is the one that loads most in the widest accesses: what looks for the rows makes narrow
        ones, maybe more bytes of them, and a branch out of the row loop makes a loop of it, too.
        """
        spans = sorted(self.loops(), key=lambda span: span[1] - span[0])
        best: list[Instruction] = []
        inner: list[tuple[int, int]] = []
        for first, last in spans:
            if any(first <= low and high <= last for low, high in inner):
                continue
            body = [i for i in self.likely if first <= i.address <= last]
            if not loaded_bytes(body):
                continue
            inner.append((first, last))
            best = max(best, body, key=widely_loaded_bytes)
        return best or self.likely

    def loops(self) -> Iterator[tuple[int, int]]:
        """Address ranges that end with a branch back to their beginning."""
        for instruction in self.instructions:
            target = instruction.target
            if target is not None and target < instruction.address:
                yield target, instruction.address

    @cached_property
    def likely(self) -> list[Instruction]:
        """The instructions without those that fail an assertion or help a division.

        A branch jumps over a call of them.
        """
        calls = [i.address for i in self.instructions if i.is_a("CALL")]
        kept, resume = [], 0
        for instruction in self.instructions:
            if instruction.address < resume:
                continue
            kept.append(instruction)
            target = instruction.target
            if target is not None and any(instruction.address < at < target for at in calls):
                between = (i for i in self.instructions if instruction.address < i.address < target)
                if not any(i.is_a("LDG", "STG") for i in between):
                    resume = target
        return kept

    @cached_property
    def bytes_per_thread(self) -> float:
        """Bytes of loads that a thread has under way, on average over the rows it reads."""
        return bytes_under_way(self.row_loop)

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of loads that an SM has under way."""
        return int(self.bytes_per_thread * LANES * self.warps)


def loaded_bytes(instructions: list[Instruction]) -> int:
    return sum(i.width for i in instructions if i.is_a("LDG"))


def widely_loaded_bytes(instructions: list[Instruction]) -> tuple[int, int]:
    """The widest load, and the bytes that loads as wide move."""
    widths = [i.width for i in instructions if i.is_a("LDG")]
    widest = max(widths, default=0)
    return widest, widest * widths.count(widest)


def bytes_under_way(loop: list[Instruction], rounds: int = 8) -> float:
    """Bytes that a thread has under way, averaged over the time that a loop takes.

    The thread issues in order and at once, a load takes one unit of time, and nothing else takes
    any: so two loads, one of which waits for the other, take two units, and one is under way.
    """
    now, before = 0, 0
    arrival = dict.fromkeys(range(6), 0)
    for turn in range(2 * rounds):
        for instruction in loop:
            now = max([now, *(arrival[barrier] for barrier in instruction.waits_for)])
            if instruction.is_a("LDG") and instruction.announces is not None:
                arrival[instruction.announces] = now + 1
        if turn == rounds - 1:
            before = now
    time = (now - before) / rounds
    return loaded_bytes(loop) / time if time else float(loaded_bytes(loop))


# ---- reading a library ---------------------------------------------------------------------------

LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?(.*?)\s*;\s+/\* 0x")
SECOND_WORD = re.compile(r"\s+/\* 0x([0-9a-f]{16}) \*/")


def short_names(mangled: list[str]) -> list[str]:
    """Names as in the source: no namespaces, return types, arguments nor architectures."""
    names = []
    for name in output_of(tool("c++filt"), *mangled).splitlines():
        name = re.sub(r"\(anonymous namespace\)::|myemb::(cuda::)?|^void ", "", name)
        name = re.sub(r"CUB_\d+_SM(_\d+)*::", "", name)
        names.append(without_arguments(name))
    return names


def without_arguments(name: str) -> str:
    """Cuts the arguments of a function off its demangled name."""
    depth = 0
    for at, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:at]
    return name


def read_kernels(path: Path) -> list[Kernel]:
    """Returns every kernel in a file, once for each architecture."""
    cuobjdump = tool("cuobjdump")
    kernels: dict[tuple[int, str], Kernel] = {}
    read_resources(lines_of(cuobjdump, "-res-usage", path), kernels)
    read_instructions(lines_of(cuobjdump, "-sass", path), kernels)
    found = list(kernels.values())
    if found:
        for kernel, name in zip(found, short_names([k.mangled for k in found]), strict=True):
            kernel.name = name
    return found


def read_resources(lines: Iterable[str], kernels: dict[tuple[int, str], Kernel]) -> None:
    architecture, name = 0, ""
    for line in lines:
        if found := re.match(r"arch = sm_(\d+)", line):
            architecture = int(found[1])
        elif found := re.match(r" Function (\S+):", line):
            name = found[1]
        elif name and "REG:" in line:
            usage = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
            kernels[architecture, name] = Kernel(
                name, architecture, usage["REG"], usage["STACK"], usage["SHARED"]
            )
            name = ""


def read_instructions(lines: Iterable[str], kernels: dict[tuple[int, str], Kernel]) -> None:
    architecture, kernel, first = 0, None, None
    for line in lines:
        if first is not None and kernel is not None and (word := SECOND_WORD.match(line)):
            address, predicate, body = first.groups()
            control = int(word[1], 16) >> 41 & 0x1FFFFF
            kernel.instructions.append(
                Instruction(int(address, 16), body, predicate or "", control)
            )
            first = None
        elif found := LINE.match(line):
            first = found
        elif found := re.match(r"\s+Function : (\S+)", line):
            kernel = kernels[architecture, found[1]]
            kernel.instructions.clear()  # of a copy that another file has brought
        elif found := re.match(r"arch = sm_(\d+)", line):
            architecture, kernel = int(found[1]), None


# ---- the table -----------------------------------------------------------------------------------


def accesses(counts: Counter[int]) -> str:
    return " ".join(f"{count}x{width}" for width, count in sorted(counts.items(), reverse=True))


def main() -> None:
    """Prints the facts of the kernels whose name contains the second argument."""
    from rich.console import Console
    from rich.table import Table

    part = sys.argv[2] if len(sys.argv) > 2 else ""
    table = Table("kernel", "sm", "regs", "warps", "stack", "spills", "div64", "atomics", "loads")
    for title in ("stores", "bytes/thread", "KiB/SM"):
        table.add_column(title)
    for kernel in sorted(read_kernels(Path(sys.argv[1])), key=lambda k: (k.name, k.architecture)):
        if part in kernel.name:
            table.add_row(
                kernel.name,
                *map(str, (kernel.architecture, kernel.registers, kernel.warps, kernel.stack)),
                *map(str, (kernel.spills, kernel.divisions, kernel.atomics)),
                accesses(kernel.widths("LDG")),
                accesses(kernel.widths("STG")),
                f"{kernel.bytes_per_thread:.0f}",
                f"{kernel.bytes_in_flight / 1024:.0f}",
            )
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
