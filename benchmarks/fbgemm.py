"""The other end of fbgemm_worker.py: FBGEMM as an engine, if ``make bench-fbgemm-env`` was run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from case import Case
from torch import Tensor

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parent / ".cache" / "fbgemm" / "bin" / "python"
REST = 2e-3  # seconds until the threads of the other process have stopped spinning


class UnavailableError(Exception):
    """FBGEMM is not there, and why."""


class Worker:
    """The process."""

    def __init__(self) -> None:
        if not PYTHON.exists():
            raise UnavailableError("its environment is missing: `make bench-fbgemm-env` makes it")
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(
            [PYTHON, HERE / "fbgemm_worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Raises:
            UnavailableError: The process has ended; the text is its last words.
        """
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise UnavailableError((self._log.read().strip().splitlines() or ["it ended"])[-1])
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


class Fbgemm:
    """The engine, prepared for a case."""

    name = "fbgemm"

    def __init__(self, worker: Worker, case: Case, threads: int) -> None:
        self._worker = worker
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.pt"
            prepare = {
                "name": type(case.work).__name__,
                "options": dataclasses.asdict(case.work),  # type: ignore[call-overload]
                "shape": dataclasses.asdict(case.shape),
            }
            worker.ask(prepare=prepare, threads=threads, result=str(path))
            self.sample: Tensor = torch.load(path)

    def seconds(self, repeats: int, keep: bool) -> float:
        """See timing.Engine."""
        answer = self._worker.ask(repeats=repeats, keep=keep)
        time.sleep(REST)
        return float(answer["seconds"])
