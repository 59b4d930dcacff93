"""Makes calls in child processes, so that a crash costs one call and is known by its number."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import select
import signal
import struct
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from checks import Call, Finding, check
from source import Source
from torch import Tensor

Draws = dict[str, tuple[int, Callable[[Source], Call]]]

BATCH = 250  # calls of one child
THREADS = (1, 2, 3)  # of the children, in turn
HANGS = 120  # seconds for one call


@dataclasses.dataclass
class Failure:
    """A call that went wrong."""

    seed: int
    number: int
    text: str


def describe(call: Call) -> str:
    lines = [f"{call.name}, wrong: {', '.join(call.faults) or 'nothing'}"]
    for name, value in call.arguments.items():
        if isinstance(value, Tensor):
            size, stride = tuple(value.shape), value.stride() if not value.is_sparse else "sparse"
            text = f"{value.dtype} {size}, stride {stride}"
            if value.numel() <= 40 and value.device.type != "meta":
                text += f": {value.detach().tolist() if not value.is_sparse else value}"
            if value.device.type == "meta":
                text += " on meta"
        else:
            text = repr(value)
        lines.append(f"    {name} = {text}")
    return "\n".join(lines)


def give_nothing() -> list[Tensor | None]:
    return [torch.empty(0, 12345)]


def crash() -> list[Tensor | None]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


SPOILED = {1: give_nothing, 2: crash}


def threads_of(number: int) -> int:
    return THREADS[number // BATCH % len(THREADS)]


@dataclasses.dataclass
class Fuzzer:
    """The calls of a seed.

    Attributes:
        draws: The families of calls, and how often each is drawn.
        seed: Of all calls.
        spoil: Call 1 gives something else, and call 2 crashes, to see that it is noticed.
        where: The context in which a call is made, by its number.
    """

    draws: Draws
    seed: int
    spoil: bool = False
    where: Callable[[int], AbstractContextManager[Any]] = lambda _: nullcontext()

    def draw(self, number: int) -> tuple[str, Call]:
        source = Source(self.seed, number)
        weights = [weight for weight, _ in self.draws.values()]
        (family,) = source.random.choices(list(self.draws), weights)
        return family, self.draws[family][1](source)

    def make(self, number: int, seen: Counter[str]) -> str | None:
        """Draws and makes one call; returns what is wrong, or None."""
        text = "drawing it"
        try:
            family, call = self.draw(number)
            seen[f"calls of {family}"] += 1
            text = describe(call)  # before anything can change
            if self.spoil and number in SPOILED:
                call.run, call.faults = SPOILED[number], []
            check(call, seen, self.where(number))
        except Finding as finding:
            return f"{text}\n  {finding}"
        except Exception:
            return f"{text}\n{traceback.format_exc()}"
        return None

    def replay(self, number: int) -> str | None:
        """Makes one call in this process, as the child would."""
        torch.set_num_threads(threads_of(number))
        print(describe(self.draw(number)[1]), flush=True)
        return self.make(number, Counter())

    def run(self, calls: int, seen: Counter[str]) -> Iterator[Failure]:
        """Makes calls 0 to ``calls``, batch by batch."""
        for first in range(0, calls, BATCH):
            yield from self.run_batch(first, min(first + BATCH, calls), seen)

    def run_batch(self, first: int, last: int, seen: Counter[str]) -> Iterator[Failure]:
        """Calls ``first`` to ``last``, in as many children as it takes."""
        progress = mmap.mmap(-1, 8)
        while first < last:
            progress[:8] = struct.pack("q", first)
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                self.be_child(first, last, writing, progress)
            os.close(writing)
            for line in lines_of(reading, child, progress):
                found: Any = json.loads(line)
                if isinstance(found, dict):
                    seen.update(found)
                else:
                    yield Failure(self.seed, *found)
            _, status = os.waitpid(child, 0)
            if status == 0:
                return
            (number,) = struct.unpack("q", progress[:8])
            text = f"{how_it_ended(status)}\n{self.safely_described(number)}"
            yield Failure(self.seed, number, text)
            first = number + 1

    def be_child(self, first: int, last: int, pipe: int, progress: mmap.mmap) -> NoReturn:
        """Writes what it finds, a line of JSON each, and before each call its number."""
        status = 1
        try:
            warnings.simplefilter("ignore")
            torch.set_num_threads(threads_of(first))
            seen: Counter[str] = Counter()
            with os.fdopen(pipe, "w") as out:
                for number in range(first, last):
                    progress[:8] = struct.pack("q", number)
                    if text := self.make(number, seen):
                        print(json.dumps([number, text]), file=out, flush=True)
                print(json.dumps(seen), file=out)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def safely_described(self, number: int) -> str:
        try:
            return describe(self.draw(number)[1])
        except Exception:
            return traceback.format_exc()


def lines_of(reading: int, child: int, progress: mmap.mmap) -> Iterator[str]:
    """What a child writes until it ends; one that stays in a call is ended."""
    rest, seen, since = b"", b"", time.monotonic()
    while True:
        ready, _, _ = select.select([reading], [], [], 1.0)
        if ready:
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode() for line in lines)
        if progress[:8] != seen:
            seen, since = progress[:8], time.monotonic()
        elif time.monotonic() - since > HANGS:
            os.kill(child, signal.SIGKILL)
            break
    os.close(reading)


def how_it_ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return f"the process was killed: in the call for {HANGS} s, or out of memory"
    return f"the process ended with {signal.Signals(-code).name if code < 0 else f'status {code}'}"
