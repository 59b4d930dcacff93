"""Runs memory_tests.py in a process of its own: the simulated GPU is an allocator, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_without_the_simulator() -> None:
    file = Path(__file__).with_name("memory_tests.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", file],
        env={**os.environ, "MYEMB_CUDASIM": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
