"""The two installations under test: a wheel in a site-packages folder, and an install prefix."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from support import BUILD, ROOT, python_in, succeed


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree, from the objects that are already compiled."""
    for stale in (ROOT / "build").glob("lib.*"):
        shutil.rmtree(stale)  # setuptools would pack modules that no longer exist
    folder = tmp_path_factory.mktemp("wheel")
    environment = {
        "MYEMB_BUILD_DIR": str(BUILD),
        "CMAKE_ARGS": "-DMYEMB_TESTS=ON -DMYEMB_WERROR=ON",
    }
    build = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps")
    succeed(*build, "--wheel-dir", folder, ROOT, env=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages folder with the wheel unpacked beside links to torch and all the others."""
    site = tmp_path_factory.mktemp("venv") / "site-packages"
    site.mkdir()
    for package in Path(torch.__file__).parents[1].iterdir():
        if package.name != "__pycache__" and "myemb" not in package.name:
            (site / package.name).symlink_to(package)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cmake --install` makes."""
    prefix = tmp_path_factory.mktemp("prefix")
    succeed("cmake", "--install", BUILD, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session", params=["wheel", "prefix"])
def cmake_prefix_path(request: pytest.FixtureRequest) -> str:
    """The CMAKE_PREFIX_PATH with which a C++ project finds each installation."""
    if request.param == "prefix":
        return str(request.getfixturevalue("prefix"))
    site = request.getfixturevalue("site")
    path = python_in(site, "import myemb; print(myemb.cmake_prefix_path)").strip()
    assert Path(path).is_relative_to(site)
    return path
