"""What the installation tests share: where things are, and how commands are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
# The build of the working tree, which `make` has brought up to date: nothing is compiled twice.
BUILD = Path(os.environ.get("MYEMB_BUILD_DIR", ROOT / "build" / "dev"))


def run(
    *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command with `env` added to the environment; returns its output, errors included."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def succeed(
    *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Runs a command that has to succeed; returns its output."""
    result = run(*command, cwd=cwd, env=env)
    assert result.returncode == 0, f"{command}\n{result.stdout}"
    return result.stdout


def python_in(site: Path, code: str) -> str:
    """Runs Python code in a process that sees the packages of `site` first; returns its output."""
    return succeed(sys.executable, "-c", code, cwd=site, env={"PYTHONPATH": str(site)})


def configure(source: Path, build: Path, *options: str) -> list[str | Path]:
    """Returns the command that configures a CMake project."""
    return ["cmake", "-S", source, "-B", build, "-GNinja", *options]


def one_line(output: str) -> str:
    """Undoes the line breaks that CMake puts into messages."""
    return " ".join(output.split())


def fake_torch(folder: Path, version: str, cuda: str | None = None) -> Path:
    """Makes a torch that consists of a version only; returns the value for Torch_DIR."""
    config = folder / "torch" / "share" / "cmake" / "Torch"
    config.mkdir(parents=True)
    targets = ["torch_cpu", "c10", *(["torch_cuda", "c10_cuda"] if cuda else [])]
    lines = [f"add_library({target} INTERFACE IMPORTED)" for target in targets]
    lines.append("set(TORCH_INSTALL_PREFIX ${CMAKE_CURRENT_LIST_DIR}/../../..)")
    (config / "TorchConfig.cmake").write_text("\n".join(lines))
    (config / "TorchConfigVersion.cmake").write_text(
        f'set(PACKAGE_VERSION "{version}")\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n'
    )
    (folder / "torch" / "version.py").write_text(f"cuda: Optional[str] = {cuda!r}\n")
    return config


def has_tool(name: str) -> bool:
    return shutil.which(name) is not None
