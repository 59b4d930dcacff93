"""A slice of ``make fuzz``, and that it notices what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "fuzz" / "main.py"


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, FUZZ, *options],
        env={**os.environ, "MYEMB_CUDASIM": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_random_calls() -> None:
    done = fuzz("--seed", "20", "--calls", "500")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "500 calls, 0 failures" in done.stdout


def test_what_is_wrong_is_found_and_can_be_made_again() -> None:
    done = fuzz("--seed", "20", "--calls", "4", "--family", "offsets", "--spoil")
    assert done.returncode == 1
    assert "FAILED 20:1 checked_offsets, wrong: nothing\n    offsets = torch." in done.stdout
    assert "FAILED 20:2 the process ended with SIGSEGV\nchecked_offsets" in done.stdout
    assert "again: make fuzz ARGS='--only 20:2 --family offsets'" in done.stdout
    assert "4 calls, 2 failures" in done.stdout
