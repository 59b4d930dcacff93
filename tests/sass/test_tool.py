"""sass.py finds in known.cu what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from sass import GPUS, Kernel, output_of, read_kernels, tool

OLDEST, NEWEST = min(GPUS), max(GPUS)


@pytest.fixture(scope="module", params=[OLDEST, NEWEST])
def known(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Kernel]:
    try:
        nvcc = tool("nvcc")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    binary = tmp_path_factory.mktemp("sass") / "known.fatbin"
    source = Path(__file__).with_name("known.cu")
    output_of(nvcc, "-fatbin", f"-arch=sm_{request.param}", "-o", binary, source)
    return {kernel.name: kernel for kernel in read_kernels(binary)}


def test_64_bit_divisions(known: dict[str, Kernel]) -> None:
    found = {name for name, kernel in known.items() if kernel.divisions}
    assert found == {"divides_64_bits", "remainder_of_64_bits"}


def test_atomics(known: dict[str, Kernel]) -> None:
    assert {name for name, kernel in known.items() if kernel.atomics} == {"adds_atomically"}


def test_stack(known: dict[str, Kernel]) -> None:
    found = {name for name, kernel in known.items() if kernel.stack or kernel.spills}
    assert found == {"has_a_stack"}
    assert known["has_a_stack"].stack >= 256
    assert known["has_a_stack"].spills >= 64


def test_widths(known: dict[str, Kernel]) -> None:
    for name, width in (("copies_16_bytes", 16), ("copies_2_bytes", 2), ("chases_pointers", 4)):
        for family in ("LDG", "STG"):
            assert set(known[name].widths(family)) == {width}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("loads_side_by_side", 16), ("chases_pointers", 4), ("asserts_between_loads", 4)],
)
def test_bytes_under_way(known: dict[str, Kernel], name: str, expected: int) -> None:
    kernel = known[name]
    assert kernel.bytes_per_thread == expected
    assert kernel.bytes_in_flight == expected * kernel.warps * 32


def test_occupancy() -> None:
    """As cudaOccMaxActiveBlocksPerMultiprocessor says for 256 threads."""
    blocks = {32: 8, 40: 6, 46: 5, 64: 4, 80: 3, 128: 2}
    for registers, expected in blocks.items():
        assert GPUS[90].blocks_per_sm(registers, shared=0) == expected
    assert GPUS[75].blocks_per_sm(32, shared=0) == 4  # 1024 threads on an SM
    assert GPUS[120].blocks_per_sm(32, shared=0) == 6
    assert GPUS[90].blocks_per_sm(32, shared=48 * 1024) == 4
