"""The library that was built, read once for all tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from sass import Kernel, read_kernels

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "myemb"
BUILD = Path(os.environ.get("MYEMB_BUILD_DIR", ROOT / "build" / "dev"))


def built_with_cuda() -> bool:
    config = PACKAGE / "share" / "cmake" / "myemb" / "myembConfig.cmake"
    return re.search(r"set\(myemb_WITH_CUDA ON\)", config.read_text()) is not None


def pytest_report_header() -> str:
    return "" if built_with_cuda() else "SASS: the library was built without CUDA kernels"


@pytest.fixture(scope="session")
def library() -> list[Kernel]:
    """The kernels in the library that is shipped."""
    if not built_with_cuda():
        pytest.skip("the library was built without CUDA kernels")
    return read_kernels(BUILD / "libmyemb.so")


@pytest.fixture(scope="session")
def own_kernels(library: list[Kernel]) -> list[Kernel]:
    """Without those of CUB."""
    return [kernel for kernel in library if not kernel.name.startswith("cub::")]
