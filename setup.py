"""Builds the wheel: runs CMake, which describes the build, and installs its tree into the package.

It reads from the environment: MYEMB_CUDA (AUTO, ON or OFF), TORCH_CUDA_ARCH_LIST, CMAKE_ARGS,
MAX_JOBS, and MYEMB_BUILD_DIR, a folder that is kept between builds.
"""

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def cmake_fact(pattern: str) -> str:
    """Reads a fact from CMakeLists.txt, which is the only place that states it."""
    match = re.search(pattern, (ROOT / "CMakeLists.txt").read_text())
    assert match is not None, pattern
    return match[1]


VERSION = cmake_fact(r"project\(myemb VERSION ([\d.]+)")
TORCH_MINOR = cmake_fact(r"set\(MYEMB_TORCH_MINOR ([\d.]+)\)")


def find_torch() -> Path:
    """Returns the folder of the torch that myemb will run with, also under pip's build isolation.

    pip hides site-packages from an isolated build but runs it with the interpreter of the
    environment it installs into, so torch is found where that environment keeps it. As a build
    requirement, pip would download another one, perhaps of another version.
    """
    sys.path += [sysconfig.get_path("platlib"), site.getusersitepackages()]
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "myemb is compiled against the installed PyTorch and none was found: "
            f'run `pip install "torch=={TORCH_MINOR}.*"`, then `pip install --no-build-isolation .`'
        )
    return Path(spec.submodule_search_locations[0])


class CMakeBuild(build_ext):
    """Builds myemb._C, and with it libmyemb.so, its headers and its CMake package."""

    def build_extension(self, ext: Extension) -> None:
        """Configures, builds and installs into the folder that the wheel is made of."""
        self.torch = find_torch()
        default = ROOT / "build" / f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
        self.build_dir = Path(os.environ.get("MYEMB_BUILD_DIR", default)).resolve()
        self.configure(
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DTorch_DIR={self.torch / 'share' / 'cmake' / 'Torch'}",
            "-DCMAKE_INSTALL_MESSAGE=NEVER",
            "-DMYEMB_PYTHON=ON",
            "-DMYEMB_TESTS=OFF",
            f"-DMYEMB_CUDA={os.environ.get('MYEMB_CUDA', 'AUTO')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        )
        jobs = os.environ.get("MAX_JOBS")
        self.cmake("--build", str(self.build_dir), *(["--parallel", jobs] if jobs else []))
        self.install_into(Path(self.get_ext_fullpath(ext.name)).resolve().parent, "--strip")

    def copy_extensions_to_source(self) -> None:
        """Does what `pip install -e` needs: it would copy only _C itself."""
        self.install_into(ROOT / "python" / "myemb")

    def configure(self, *options: str) -> None:
        """Runs CMake, which forgets what it found with other options, such as another torch."""
        remembered = self.build_dir / "setup.txt"
        text = "\n".join(options)
        if not remembered.exists() or remembered.read_text() != text:
            # Not --fresh: that deletes the objects too.
            (self.build_dir / "CMakeCache.txt").unlink(missing_ok=True)
        self.cmake("-S", str(ROOT), "-B", str(self.build_dir), "-GNinja", *options)
        remembered.write_text(text)

    def install_into(self, package: Path, *options: str) -> None:
        """Installs the CMake tree and what it was compiled against; `package` is a myemb folder."""
        for component in ("Unspecified", "python"):
            where = ("--prefix", str(package), "--component", component)
            self.cmake("--install", str(self.build_dir), *where, *options)
        version: dict[str, Any] = runpy.run_path(str(self.torch / "version.py"))
        (package / "_build_info.py").write_text(
            '"""The torch that myemb was compiled against; written by setup.py."""\n\n'
            f'TORCH_VERSION = "{version["__version__"]}"\n'
            f"TORCH_CUDA = {version['cuda']!r}\n"
        )

    def cmake(self, *arguments: str) -> None:
        """Runs CMake, whose own message is the last one that a user sees if it fails."""
        if subprocess.run(["cmake", *arguments]).returncode != 0:
            raise SystemExit("myemb: CMake failed; its message above says why.")


setup(
    version=VERSION,
    install_requires=[f"torch=={TORCH_MINOR}.*"],
    packages=["myemb"],
    package_dir={"": "python"},
    package_data={"myemb": ["py.typed", "*.pyi"]},
    ext_modules=[Extension("myemb._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
