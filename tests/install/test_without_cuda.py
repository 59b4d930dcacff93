"""A machine without a CUDA toolkit, with PyPI's torch, which is a CUDA build."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import EXAMPLE, ROOT, configure, has_tool, run, succeed

WITHOUT_CUDA = ROOT / "tests" / "install" / "without_cuda.sh"

if has_tool("nvcc") and run(WITHOUT_CUDA, "true").returncode != 0:
    pytest.skip("no mount namespace may be made here (unshare)", allow_module_level=True)


def test_the_toolkit_is_hidden() -> None:
    assert run(WITHOUT_CUDA, "nvcc", "--version").returncode != 0


def test_build_configures(tmp_path: Path) -> None:
    output = succeed(WITHOUT_CUDA, *configure(ROOT, tmp_path))
    assert "CUDA kernels OFF" in output


def test_build_with_cuda_demanded_says_what_is_missing(tmp_path: Path) -> None:
    result = run(WITHOUT_CUDA, *configure(ROOT, tmp_path, "-DMYEMB_CUDA=ON"))
    assert result.returncode != 0
    assert "MYEMB_CUDA=ON, but no working nvcc was found: set CUDACXX" in result.stdout


def test_find_package_configures(prefix: Path, tmp_path: Path) -> None:
    # The package under test has CUDA kernels if this machine has nvcc; to use it takes no toolkit.
    consumer = configure(EXAMPLE, tmp_path)
    succeed(WITHOUT_CUDA, *consumer, f"-DCMAKE_PREFIX_PATH={prefix}")


# The dispatcher's CUDA key without a GPU: what a CUDA tensor would get.
CALL_ON_CUDA = """
import sys, torch
torch.ops.load_library(sys.argv[1])
weight, indices = torch.ones(3, 2), torch.tensor([1])
assert torch.equal(torch.ops.myemb.embedding(weight, indices), torch.ones(1, 2))
torch.ops.myemb.embedding.default._op_dk(torch._C.DispatchKey.CUDA, weight, indices)
"""


def test_a_library_without_cuda_says_so_of_a_cuda_tensor(tmp_path: Path) -> None:
    # Not optimised and for one instruction set, as in test_consumer.py.
    less = ("-DCMAKE_CXX_FLAGS_RELEASE=-O0", "-DMYEMB_CPU_ISAS=baseline", "-DMYEMB_TESTS=OFF")
    succeed(WITHOUT_CUDA, *configure(ROOT, tmp_path, *less))
    succeed(WITHOUT_CUDA, "cmake", "--build", tmp_path, "--target", "myemb")
    result = run(sys.executable, "-c", CALL_ON_CUDA, tmp_path / "libmyemb.so")
    assert "NotImplementedError: myemb::embedding: this myemb was built without" in result.stdout
