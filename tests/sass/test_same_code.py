"""The machine code in the library is what ptxas makes of the PTX that the simulator tests.

The simulator runs PTX and the library holds SASS. Here the PTX in the simulator's object files is
assembled and compared with the library, instruction by instruction: what the simulator shows holds
for the library, as far as ptxas translates right.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import BUILD
from sass import Kernel, output_of, read_kernels, tool

OBJECTS = BUILD / "CMakeFiles" / "_cudasim.dir" / "cuda"


def ptx_modules(object_file: Path) -> dict[int, str]:
    """The PTX in an object file by architecture, without its debug information."""
    modules = {}
    text = output_of(tool("cuobjdump"), "-ptx", object_file)
    for module in re.split(r"^Fatbin ptx code:$", text, flags=re.MULTILINE)[1:]:
        header, _, body = module.partition("\n.version")
        (architecture,) = re.findall(r"arch = sm_(\d+)", header)
        modules[int(architecture)] = without_debug_information(".version" + body)
    return modules


def without_debug_information(ptx: str) -> str:
    ptx = re.sub(r"^\s*\.(loc|file)\b.*\n", "", ptx, flags=re.MULTILINE)
    ptx = re.sub(r"^\s*\.section\s+\.debug\w*\s*\{.*?^\s*\}\n", "", ptx, flags=re.M | re.S)
    return re.sub(r"^(\.target \w+), debug", r"\1", ptx, flags=re.MULTILINE)


def assembled(ptx: str, architecture: int, folder: Path) -> list[Kernel]:
    source, cubin = folder / f"{architecture}.ptx", folder / f"{architecture}.cubin"
    source.write_text(ptx)
    output_of(tool("ptxas"), f"-arch=sm_{architecture}", "-fmad=false", source, "-o", cubin)
    return read_kernels(cubin)


def code(kernel: Kernel) -> list[tuple[str, str, int]]:
    return [(i.predicate, i.text, i.control) for i in kernel.instructions]


@pytest.mark.parametrize("source", sorted(Path(__file__).parents[2].glob("cuda/*.cu")), ids=str)
def test_library_is_what_is_tested(source: Path, library: list[Kernel], tmp_path: Path) -> None:
    shipped = {(kernel.architecture, kernel.name): kernel for kernel in library}
    modules = ptx_modules(OBJECTS / f"{source.name}.o")
    assert modules
    with ThreadPoolExecutor() as threads:  # which wait for ptxas
        assemblies = {a: threads.submit(assembled, ptx, a, tmp_path) for a, ptx in modules.items()}
    for architecture, assembly in assemblies.items():
        kernels = assembly.result()
        assert kernels
        for kernel in kernels:
            assert code(kernel) == code(shipped[architecture, kernel.name]), kernel.name
