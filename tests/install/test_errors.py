"""A wrong or missing torch is one sentence that says what to do, wherever it is met."""

from __future__ import annotations

import shutil
import sys
import venv
from pathlib import Path

import pytest
import setuptools  # type: ignore[import-untyped]
from support import EXAMPLE, ROOT, configure, fake_torch, has_tool, one_line, run


def test_import_with_another_torch(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "myemb", tmp_path / "myemb")
    (tmp_path / "myemb" / "_build_info.py").write_text('TORCH_VERSION = "2.14.1"\n')
    command = (sys.executable, "-c", "import myemb")
    result = run(*command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1
    message = result.stdout.splitlines()[-1]
    assert message.startswith(
        "ImportError: myemb was compiled against torch 2.14.1, but torch 2.15."
    )
    assert "pip install" in message


def test_find_package_with_another_torch(prefix: Path, tmp_path: Path) -> None:
    options = f"-DCMAKE_PREFIX_PATH={prefix}", f"-DTorch_DIR={fake_torch(tmp_path, '2.14.1')}"
    result = run(*configure(EXAMPLE, tmp_path / "build", *options))
    assert result.returncode != 0
    message = one_line(result.stdout)
    assert "myemb 0.1.0 was compiled against torch 2.15.0, but torch 2.14.1 was found in" in message
    assert "set -DTorch_ROOT=<path of a torch 2.15>." in message


def test_find_package_without_torch(prefix: Path, tmp_path: Path) -> None:
    options = f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_DISABLE_FIND_PACKAGE_Torch=ON"
    result = run(*configure(EXAMPLE, tmp_path, *options))
    assert result.returncode != 0
    assert "myemb 0.1.0 needs torch 2.15 and none was found: run" in one_line(result.stdout)


def test_build_with_another_torch(tmp_path: Path) -> None:
    torch_dir = fake_torch(tmp_path, "2.16.0")
    result = run(*configure(ROOT, tmp_path / "build", f"-DTorch_DIR={torch_dir}"))
    assert result.returncode != 0
    message = one_line(result.stdout)
    assert "myemb 0.1.0 needs torch 2.15, but torch 2.16.0 was found in" in message
    assert 'run `pip install "torch==2.15.*"`' in message


def test_build_without_torch(tmp_path: Path) -> None:
    result = run(*configure(ROOT, tmp_path, "-DCMAKE_DISABLE_FIND_PACKAGE_Torch=ON"))
    assert result.returncode != 0
    assert "myemb is compiled against PyTorch and none was found: run" in one_line(result.stdout)


def test_pip_install_without_torch(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    packages = Path(setuptools.__file__).parents[1]
    (tmp_path / "packages").mkdir()
    for name in ("setuptools", "_distutils_hack"):
        (tmp_path / "packages" / name).symlink_to(packages / name)
    result = run(
        *(tmp_path / "venv" / "bin" / "python", ROOT / "setup.py", "--quiet", "build_ext"),
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "packages"), "PYTHONNOUSERSITE": "1"},
    )
    assert result.returncode == 1
    message = result.stdout.splitlines()[-1]
    assert message.startswith("myemb is compiled against the installed PyTorch and none was found")
    assert 'pip install "torch==2.15.*"' in message


@pytest.mark.skipif(not has_tool("nvcc"), reason="there is no nvcc on this machine")
def test_build_with_an_nvcc_of_another_cuda(tmp_path: Path) -> None:
    torch_dir = fake_torch(tmp_path, "2.15.0", cuda="11.8")
    result = run(*configure(ROOT, tmp_path / "build", f"-DTorch_DIR={torch_dir}"))
    assert result.returncode != 0
    message = one_line(result.stdout)
    assert "but this torch is built with CUDA 11.8: set CUDACXX to the nvcc of a CUDA 11" in message


@pytest.mark.parametrize("cuda", ["ON", "AUTO"])
def test_cuda_kernels_without_a_cuda_torch(cuda: str, tmp_path: Path) -> None:
    torch_dir = fake_torch(tmp_path, "2.15.0")
    options = f"-DTorch_DIR={torch_dir}", f"-DMYEMB_CUDA={cuda}", "-DMYEMB_TESTS=OFF"
    message = one_line(run(*configure(ROOT, tmp_path / "build", *options)).stdout)
    if cuda == "ON":
        assert "myemb: MYEMB_CUDA=ON, but this torch has no CUDA" in message
    else:
        assert "CUDA kernels OFF" in message
