"""PyTorch, myemb and the limit as engines, each checked against PyTorch before it is timed."""

from __future__ import annotations

import functools
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from case import Case
from fbgemm import Fbgemm, UnavailableError, Worker
from inputs import Inputs, sample
from timing import Engine, seconds_per_call
from torch import Tensor
from work import TORCH, Call, Library

import myemb
import myemb.optim

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent / "build" / "bench" / "limit"
FLAGS = ["-O3", "-march=native", "-fopenmp", "-Wall", "-Wno-maybe-uninitialized"]

MYEMB = Library(
    myemb.functional,
    myemb.nn,
    myemb.functional.coalesce,
    myemb.optim,
    huge_pages=myemb.huge_pages_,
    fuse=myemb.optim.fuse_in_backward,
)

TUNING_SECONDS = 3e-4  # of a sample while the limit's fastest way is looked for...
LONG_SECONDS = 5e-3  # ...unless a call takes so long that one is enough
# The ways: bytes asked for ahead, and whether stores go past the caches.
TUNINGS = [(ahead, stream) for ahead in (0, 4096, 8192, 32768) for stream in (False, True)]

# Differences that rounding explains: of a sum in another order, of one rounding to 16 bits. PyTorch
# adds 16-bit rows in 16 bits here and there, so it is compared in float32.
TOLERANCES = {
    "fp64": (1e-9, 1e-9),
    "fp32": (1e-4, 1e-4),
    "bf16": (1e-2, 1e-2),
    "fp16": (2e-3, 2e-3),
}


class WrongResultError(Exception):
    """An engine's result is not PyTorch's."""


class Local:
    """An engine in this process."""

    def __init__(self, name: str, call: Callable[[], Any]) -> None:
        self.name = name
        self._call = call

    def seconds(self, repeats: int, keep: bool) -> float:
        """See timing.Engine. Fresh memory is none that myemb has kept from the call before."""
        if keep:
            myemb.empty_cache()
        return seconds_per_call(self._call, repeats, keep)


@functools.cache
def limit_loops() -> Any:
    """Compiles and loads the loops of the limit.

    Returns:
        The module, or a sentence that says why there is none.
    """
    # It would warn of a missing GPU, which nobody asked for here.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    BUILT.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # has ninja
    try:
        return cpp_extension.load(
            name="myemb_limit",
            sources=[str(path) for path in sorted((HERE / "limit").glob("*.cpp"))],
            build_directory=str(BUILT),
            extra_cflags=FLAGS,
            extra_ldflags=["-fopenmp"],
        )
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        complaints = [line for line in str(error).splitlines() if "error:" in line]
        what = complaints[0].partition("error:")[2].strip() if complaints else "no working compiler"
        return f"its loops do not compile here: {what}"


class Reference:
    """What the result is: PyTorch says so, or a formula where it has no such operation."""

    def __init__(self, case: Case, inputs: Inputs) -> None:
        exact = inputs.exact()
        self._case, self._inputs = case, inputs
        formula = case.work.formula(exact)
        self.is_torch = formula is None
        call = case.work.call(exact, TORCH)
        self._expected = self.sample_of(call) if formula is None else sample(formula)

    def sample_of(self, call: Call) -> Tensor:
        """Returns what is compared of the result of new tensors' calls."""
        work = self._case.work
        for _ in range(work.checked_call - 1):
            call()
        return sample(work.result(call(), self._inputs))

    def check(self, name: str, found: Tensor) -> None:
        """Compares.

        Raises:
            WrongResultError: It is another one.
        """
        expected = self._expected
        relative, absolute = TOLERANCES[self._case.shape.dtype]
        scale = float(expected.abs().max()) if expected.numel() else 1.0
        if found.numel() == expected.numel():
            found = found.view_as(expected)
            if torch.allclose(found, expected, rtol=relative, atol=absolute * max(1.0, scale)):
                return
        source = "that of PyTorch" if self.is_torch else "what the formula says"
        raise WrongResultError(f"{name}: the result is not {source}")


def tuned(name: str, run: Callable[[Any], Any], threads: int, keep: bool) -> Local:
    """Returns the limit run in the way that is the fastest here."""
    tuning = limit_loops().Tuning
    candidates = [functools.partial(run, tuning(*each, threads)) for each in TUNINGS]

    def best_time(call: Callable[[], Any]) -> float:
        once = seconds_per_call(call, 1, keep)
        if once > LONG_SECONDS:
            return once
        repeats = math.ceil(TUNING_SECONDS / once)
        return min(seconds_per_call(call, repeats, keep) for _ in range(3))

    return Local(name, min(candidates, key=best_time))


def limits(case: Case, inputs: Inputs, reference: Reference, threads: int) -> Iterator[Local]:
    """Yields the limits of a case, checked."""
    loops = limit_loops()
    if isinstance(loops, str):
        return
    plain = loops.Tuning(0, False, threads)
    for name, run in case.work.limits(inputs, loops).items():
        reference.check(name, reference.sample_of(functools.partial(run, plain)))
        yield tuned(name, run, threads, case.fresh)


def engines_for(
    case: Case, inputs: Inputs, reference: Reference, threads: int, worker: Worker | None
) -> list[Engine]:
    """Returns the engines of a case, each checked.

    Raises:
        WrongResultError: myemb's or the limit's result is not PyTorch's.
    """
    torch.set_num_threads(threads)
    engines: list[Engine] = [Local("torch", case.work.call(inputs, TORCH))]
    others = {name: work.call(inputs, TORCH) for name, work in case.work.rivals().items()}
    others["myemb"] = case.work.call(inputs, MYEMB)
    for name, call in others.items():
        if name == "myemb" or reference.is_torch:
            reference.check(name, reference.sample_of(call))
        engines.append(Local(name, call))
    engines.extend(limits(case, inputs, reference, threads))
    if worker is not None and case.work.has_fbgemm(inputs):
        fbgemm = Fbgemm(worker, case, threads)
        try:
            reference.check("fbgemm", fbgemm.sample)
            engines.append(fbgemm)
        except WrongResultError as error:
            print(f"{case.name}: left out, {error}", file=sys.stderr)
    return engines


def start_worker() -> tuple[Worker | None, str]:
    """Returns FBGEMM's process, or the reason why there is none."""
    try:
        worker = Worker()
        worker.ask()
        return worker, ""
    except UnavailableError as error:
        return None, f"FBGEMM is left out: {error}"
