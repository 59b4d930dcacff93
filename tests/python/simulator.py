"""The CUDA kernels on a machine without a GPU: nvcc's PTX, run on the CPU and watched.

While a simulation runs, ``torch.ops.myemb`` on CPU tensors takes the host code and the kernels of
``cuda/`` (tests/cudasim). The module is built with the C++ tests where nvcc is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import myemb  # loads libmyemb, which _cudasim shares with it

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("MYEMB_CUDASIM", ROOT / "build" / "dev"))


def load() -> Any:
    """The module ``_cudasim``, or None where it was not built, or MYEMB_CUDASIM is empty."""
    assert myemb.__version__
    if os.environ.get("MYEMB_CUDASIM") == "":
        return None
    found = sorted(FOLDER.glob("_cudasim.*.so"))
    if not found:
        assert "MYEMB_CUDASIM" not in os.environ, f"no _cudasim in MYEMB_CUDASIM={FOLDER}"
        return None
    spec = importlib.util.spec_from_file_location("_cudasim", found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Loaded before any tensor is made: the simulator has to hear of every allocation.
module = load()
ARCHITECTURES: list[int] = module.architectures if module else []
_running = False


def running() -> bool:
    return _running


def seed_of(name: str) -> int:
    """The same in every process, unlike hash()."""
    return zlib.crc32(name.encode())


@contextlib.contextmanager
def simulation(arch: int, seed: int = 0) -> Iterator[Any]:
    """Runs the CUDA kernels for ``arch``; ``seed`` orders blocks and warps. Fails on any report."""
    global _running
    assert not _running
    module.clear()
    with module.enabled(arch, seed):
        _running = True
        try:
            yield module
        finally:
            _running = False
    reports = module.reports()
    assert not reports, "\n".join(reports)


# For tests of the assertions by which a kernel refuses values.
fatal_on_a_gpu = pytest.mark.devices(
    "cpu", "every cudasim", why="a device-side assertion ends the use of CUDA in a process"
)


def refused(error: type[Exception], message: str, in_kernel: str) -> Any:
    """``pytest.raises`` of an error that lies in values, not in shapes or dtypes.

    A kernel that finds it stops with an assertion, which is a RuntimeError that names the operator
    and says ``in_kernel``, without the value.
    """
    if not running():
        return pytest.raises(error, match=message)
    return pytest.raises((error, RuntimeError), match=rf"{message}|myemb::\w+: .*{in_kernel}")
