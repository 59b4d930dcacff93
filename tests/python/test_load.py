"""Runs load_tests.py, growth_tests.py and huge_tests.py in processes of their own.

The simulated GPU is an allocator with threads, too. ``make test-load`` runs the long ones as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["load", "growth", "huge"])
def test_without_the_simulator(name: str) -> None:
    file = Path(__file__).with_name(f"{name}_tests.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "-m", "not slow", file],
        env={**os.environ, "MYEMB_CUDASIM": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
