"""A C++ project that finds the installed package, in the wheel and in an install prefix."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import EXAMPLE, configure, python_in, run, succeed


@pytest.fixture(scope="module")
def programs(cmake_prefix_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of examples/cpp, built against each installation."""
    build = tmp_path_factory.mktemp("example")
    options = (
        f"-DCMAKE_PREFIX_PATH={cmake_prefix_path}",
        # Not optimised: it is the build that is tested, and compiling takes half the time.
        "-DCMAKE_CXX_FLAGS_RELEASE=-O0",
        # Ubuntu's linker drops a library of which no symbol is used, Debian's does not.
        "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed",
    )
    succeed(*configure(EXAMPLE, build, *options))
    succeed("cmake", "--build", build)
    return build


# guide is what docs/cpp.md shows; train calls the modules of myemb/nn.h, train_fused the optimizers
# of myemb/optim.h, too; by_name uses no symbol of libmyemb at all.
@pytest.mark.parametrize("program", ["guide", "train", "train_fused", "by_name"])
def test_program_runs(program: str, programs: Path, tmp_path: Path) -> None:
    succeed(programs / program, cwd=tmp_path)


def test_program_by_name_keeps_the_library(programs: Path) -> None:
    assert "libmyemb.so" in succeed("readelf", "--dynamic", programs / "by_name")
    undefined = succeed("nm", "--demangle", "--undefined-only", programs / "by_name")
    assert "myemb" not in undefined


@pytest.fixture(scope="module")
def package(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the installed wheel has compiled with AOTInductor."""
    package = tmp_path_factory.mktemp("package") / "model.pt2"
    script = str(EXAMPLE / "package.py")
    python_in(site, f"import runpy; runpy.run_path({script!r})['main']({str(package)!r})")
    return package


def test_a_package_of_aotinductor_runs(programs: Path, package: Path) -> None:
    succeed(programs / "package", package)


def test_headers_do_not_need_python(programs: Path) -> None:
    assert "libpython" not in run("ldd", programs / "train").stdout
