"""Runs the Python tests of the simulated GPU inside this process, again and again.

Tests are collected once. Each mutant is tried in a forked child, which stops at the first test that
fails: what the mutant does to memory dies with it, a crash is a failed test, and so is running for
too long.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import torch
from _pytest.runner import runtestprotocol

SECONDS = 300  # after which a child is given up
NO_PARAMETERS = SimpleNamespace(params={})


@dataclasses.dataclass
class Test:
    """One test, and what it does without mutants."""

    item: pytest.Item
    kernels: frozenset[str]
    seconds: float


def fails(item: pytest.Item) -> bool:
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


class Plugin:
    """Replaces pytest's loop over the tests by a function of ours."""

    def __init__(
        self, device: str, for_any_device: set[str], work: Callable[[list[pytest.Item]], None]
    ) -> None:
        self.device = device
        self.for_any_device = for_any_device
        self.work = work

    def pytest_configure(self) -> None:
        """A failing example is enough: hypothesis need not look for the smallest one."""
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutants", phases=phases)
        hypothesis.settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.runs_there(item)]

    def runs_there(self, item: pytest.Item) -> bool:
        """Whether a test is for the device, or does not say and may be for any."""
        devices = {
            str(value)
            for name, value in getattr(item, "callspec", NO_PARAMETERS).params.items()
            if name in ("device", "gpu", "arch")
        }
        if not devices:
            return item.path.name in self.for_any_device
        return bool(devices & {self.device, self.device.removeprefix("cudasim-")})

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.work(session.items)
        return True


def with_tests(
    folder: Path,
    device: str,
    for_any_device: set[str],
    work: Callable[[list[pytest.Item]], None],
) -> None:
    """Collects the tests of a folder and calls ``work`` with those for a device.

    ``for_any_device`` are the files of which it also takes the tests that name no device.
    """
    torch.set_num_threads(1)  # threads do not survive a fork
    plugin = Plugin(device, for_any_device, work)
    options = ["--quiet", "--no-header", "--no-summary", "--capture=no"]
    code = pytest.main([str(folder), *options], plugins=[plugin])
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), code


# ---- which test runs which kernel ----------------------------------------------------------------


@dataclasses.dataclass
class Observed:
    """What the tests do without mutants."""

    tests: list[Test]  # less those that fail: these say nothing about mutants
    covered: dict[str, list[str]]  # the instructions of each kernel that run


def observe(items: list[pytest.Item], module: Any, arch: int, cache: Path) -> Observed:
    """Runs every test once, or reads what an earlier run of the same tests has seen."""
    known = json.loads(cache.read_text()) if cache.exists() else {"tests": {}}
    if known["tests"].keys() != {item.nodeid for item in items}:
        module.settings().cover = True
        tests = {item.nodeid: observed(item, module) for item in items}
        module.settings().cover = False
        known = {
            "tests": tests,
            "covered": {kernel: module.covered(arch, kernel) for kernel in module.kernels(arch)},
        }
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(known))
    seen = known["tests"]
    tests = [
        Test(item, frozenset(seen[item.nodeid]["kernels"]), seen[item.nodeid]["seconds"])
        for item in items
        if seen[item.nodeid]["passes"]
    ]
    return Observed(tests, known["covered"])


def observed(item: pytest.Item, module: Any) -> dict[str, Any]:
    kernels: set[str] = set()
    clear = module.clear

    def note_and_clear() -> None:  # a test may run several simulations, each of which forgets
        kernels.update(launch["mangled"] for launch in module.launches())
        clear()

    clear()
    module.clear = note_and_clear
    try:
        start = time.perf_counter()
        passes = not fails(item)
        seconds = time.perf_counter() - start
        note_and_clear()
    finally:
        module.clear = clear
    return {"passes": passes, "kernels": sorted(kernels), "seconds": seconds}


# ---- trying mutants ------------------------------------------------------------------------------


@dataclasses.dataclass
class Attempt:
    """A mutant that is being tried."""

    mutant: Any
    order: list[Test]
    pipe: int


class Killers:
    """The tests of each kernel, those first that have killed most mutants."""

    def __init__(self, tests: list[Test]) -> None:
        self._tests = tests
        self._kills: dict[str, int] = defaultdict(int)

    def of(self, kernel: str) -> list[Test]:
        mine = [test for test in self._tests if kernel in test.kernels]
        return sorted(mine, key=lambda test: (-self._kills[test.item.nodeid], test.seconds))

    def credit(self, test: Test) -> None:
        self._kills[test.item.nodeid] += 1


def try_in_child(prepare: Callable[[], None], order: list[Test]) -> tuple[int, int]:
    """Starts a child that runs tests until one fails; returns its id and the pipe it writes to.

    It writes the number of each test before it runs it, so the last one written is the killer.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    signal.alarm(SECONDS)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    prepare()
    for index, test in enumerate(order):
        os.write(writing, f"{index}\n".encode())
        if fails(test.item):
            os._exit(1)
    os._exit(0)


def outcomes(
    kernel: str,
    mutants: list[Any],
    prepare: Callable[[Any], None],
    killers: Killers,
    processes: int,
) -> Iterator[tuple[Any, str | None]]:
    """Tries mutants of a kernel; yields each with the test that killed it, or None."""
    running: dict[int, Attempt] = {}
    waiting = list(reversed(mutants))
    while waiting or running:
        while waiting and len(running) < processes:
            mutant, order = waiting.pop(), killers.of(kernel)
            child, pipe = try_in_child(functools.partial(prepare, mutant), order)
            running[child] = Attempt(mutant, order, pipe)
        child, status = os.wait()
        attempt = running.pop(child)
        with os.fdopen(attempt.pipe) as pipe_end:
            tried = pipe_end.read().split()
        if status == 0:
            yield attempt.mutant, None
        else:
            killer = attempt.order[int(tried[-1])] if tried else None
            if killer:
                killers.credit(killer)
            yield attempt.mutant, killer.item.nodeid if killer else "before any test"
