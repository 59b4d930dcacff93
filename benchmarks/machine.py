"""What the machine is, and whether it was ours while we measured."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import myemb

MOST_OTHERS = 0.05  # part of the cores that other processes may take
MOST_STOLEN = 0.02  # part that the hypervisor may
MOST_SLOWDOWN = 1.10  # of arithmetic in registers, against the fastest of this run
SPIN_STEPS = 1_000_000


def _read(path: str, otherwise: str = "unknown") -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return otherwise


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (kind := _read(f"{folder}/type")) != "Instruction":
            caches[f"L{_read(f'{folder}/level')} {kind.lower()}"] = _read(f"{folder}/size")
    return caches


def describe() -> dict[str, Any]:
    """Returns what a reader of the numbers has to know."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "caches": _caches(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "kernel": platform.release(),
        "capability": myemb._C.cpu_capability(),
        "torch": torch.__version__,
        "myemb": f"{myemb.__version__} at {_commit()}",
    }


@dataclasses.dataclass(frozen=True)
class Clock:
    """Ticks of all cores and of ours, since the machine started."""

    time: float
    busy: float
    stolen: float
    own: float


def _seconds_of(pid: int) -> float:
    """Returns the processor time of a process."""
    fields = _read(f"/proc/{pid}/stat", "").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


@dataclasses.dataclass(frozen=True)
class Load:
    """What went on beside a measurement.

    Attributes:
        others, stolen: Parts of the cores that other processes and the hypervisor took.
        slowdown: Arithmetic in registers against the fastest of this run; the worse of before and
            after.
        average: The load average of the last minute when it ended.
    """

    others: float
    stolen: float
    slowdown: float
    average: float

    @property
    def disturbed(self) -> bool:
        """Whether the numbers should not be trusted."""
        quiet = self.others <= MOST_OTHERS and self.stolen <= MOST_STOLEN
        return not quiet or self.slowdown > MOST_SLOWDOWN

    def __str__(self) -> str:
        return (
            f"others {self.others:.0%}, stolen {self.stolen:.0%}, "
            f"clock {1 / self.slowdown:.0%}, load {self.average:.1f}"
        )


class Watch:
    """Notices what else the machine does.

    Args:
        spin: Runs a number of steps of arithmetic in registers.
        pids: The processes that belong to the benchmark.
    """

    def __init__(self, spin: Callable[[int], object], pids: list[int]) -> None:
        self._spin, self._pids = spin, pids
        self._fastest = min(self._spin_seconds() for _ in range(5))

    def _spin_seconds(self) -> float:
        start = time.perf_counter()
        self._spin(SPIN_STEPS)
        return time.perf_counter() - start

    def _clock(self) -> Clock:
        ticks = [int(field) for field in _read("/proc/stat").splitlines()[0].split()[1:9]]
        user, nice, system, _, _, irq, softirq, stolen = (
            tick / os.sysconf("SC_CLK_TCK") for tick in ticks
        )
        own = sum(_seconds_of(pid) for pid in self._pids)
        return Clock(time.perf_counter(), user + nice + system + irq + softirq, stolen, own)

    def start(self) -> None:
        """Begins a measurement."""
        self._before = min(self._spin_seconds() for _ in range(2))
        self._begun = self._clock()

    def stop(self) -> Load:
        """Ends it."""
        begun, ended = self._begun, self._clock()
        after = min(self._spin_seconds() for _ in range(2))
        self._fastest = min(self._fastest, self._before, after)
        available = (ended.time - begun.time) * (os.cpu_count() or 1)
        others = (ended.busy - begun.busy) - (ended.own - begun.own)
        return Load(
            others=max(0.0, others / available),
            stolen=(ended.stolen - begun.stolen) / available,
            slowdown=max(self._before, after) / self._fastest,
            average=os.getloadavg()[0],
        )
