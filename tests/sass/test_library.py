"""The kernels in the library are what expected.py says, on every architecture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from expected import KIB, Expected, expected, floor
from sass import Kernel

TABLE = expected()


def test_the_table_names_every_kernel(own_kernels: list[Kernel]) -> None:
    architectures = {kernel.architecture for kernel in own_kernels}
    for architecture in architectures:
        names = {kernel.name for kernel in own_kernels if kernel.architecture == architecture}
        assert names == TABLE.keys()


def complaints(kernel: Kernel, facts: Expected) -> Iterator[str]:
    for what in ("stack", "spills", "divisions", "atomics"):
        if number := getattr(kernel, what):
            yield f"{what} {number}"
    if kernel.registers > facts.registers:
        yield f"{kernel.registers} registers instead of {facts.registers}"
    if kernel.widths("LDG")[16] < facts.wide_loads:
        yield f"{kernel.widths('LDG')[16]} loads of 16 bytes instead of {facts.wide_loads}"
    if kernel.widths("STG")[16] < facts.wide_stores:
        yield f"{kernel.widths('STG')[16]} stores of 16 bytes instead of {facts.wide_stores}"
    needed = int(floor(kernel.architecture) * facts.main_path)
    if kernel.bytes_in_flight < needed:
        has = kernel.bytes_in_flight // KIB
        yield f"{has} KiB of loads in flight instead of {needed // KIB}"


@pytest.mark.parametrize("name", TABLE)
def test_facts(own_kernels: list[Kernel], name: str) -> None:
    wrong = [
        f"sm_{kernel.architecture}: {complaint}"
        for kernel in own_kernels
        if kernel.name == name
        for complaint in complaints(kernel, TABLE[name])
    ]
    if wrong:
        pytest.fail("\n".join([name, *wrong]), pytrace=False)
