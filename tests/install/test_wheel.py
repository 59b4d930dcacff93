"""What is in the wheel, and what it loads."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from support import ROOT, python_in

LOADED = """
import re, myemb
maps = open("/proc/self/maps").read()
for name in sorted(set(re.findall(r"/\\S*/lib(?:gomp|cudart)[-.\\w]*", maps))):
    print(name)
"""


def test_has_the_package_its_headers_and_its_cmake_files(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "myemb/__init__.py",
        "myemb/_build_info.py",
        "myemb/_C.pyi",
        "myemb/py.typed",
        "myemb/lib/libmyemb.so",
        "myemb/include/myemb/functional.h",
        "myemb/include/myemb/fuse.h",
        "myemb/include/myemb/memory.h",
        "myemb/include/myemb/nn.h",
        "myemb/include/myemb/ops.h",
        "myemb/include/myemb/optim.h",
        "myemb/include/myemb/update.h",
        "myemb/include/myemb/version.h",
        "myemb/share/cmake/myemb/myembConfig.cmake",
        "myemb/share/cmake/myemb/myembConfigVersion.cmake",
        "myemb/share/cmake/myemb/MyembFindTorch.cmake",
    ):
        assert needed in files
    modules = {file.name for file in (ROOT / "python" / "myemb").glob("*.py")}
    assert modules <= {Path(file).name for file in files}


def test_is_small(wheel: Path) -> None:
    """More than half of it is machine code for five GPUs, a third of that for optimizer rules."""
    assert wheel.stat().st_size < 11e6


def test_needs_the_torch_it_was_compiled_against(site: Path) -> None:
    (metadata,) = site.glob("myemb-*.dist-info/METADATA")
    assert "Requires-Dist: torch==2.15.*" in metadata.read_text().splitlines()


@pytest.mark.parametrize("installation", ["wheel", "editable"])
def test_loads_one_openmp_and_one_cuda_runtime(
    installation: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    site = request.getfixturevalue("site") if installation == "wheel" else tmp_path
    loaded = [Path(line) for line in python_in(site, LOADED).splitlines()]
    gomp = {path.resolve() for path in loaded if path.name.startswith("libgomp")}
    cudart = {path.resolve() for path in loaded if path.name.startswith("libcudart")}
    # torch's own: a second OpenMP has threads of its own, a second CUDA runtime its own state.
    assert len(gomp) == 1 and "torch" in gomp.pop().parts
    assert len(cudart) <= 1 and all("nvidia" in path.parts for path in cudart)
