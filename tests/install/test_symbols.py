"""Code for one instruction set stays in functions that only that instruction set calls."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from support import BUILD, succeed

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="kernels are compiled for several instruction sets on x86-64 only",
)


def objects(isa: str) -> list[Path]:
    return sorted((BUILD / "CMakeFiles" / f"myemb_kernels_{isa}.dir").rglob("*.o"))


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_kernels_define_nothing_that_others_share(isa: str) -> None:
    # An inline function that this object defines under a name others use (std::max, a helper of
    # ours outside of the namespace) may be the copy that the linker keeps for all of libmyemb.
    assert objects(isa)
    own = f"5myemb{len(isa)}{isa}"  # how C++ mangles myemb::avx2
    for path in objects(isa):
        symbols = succeed("nm", "--defined-only", "--extern-only", "--format=posix", path)
        names = [line.split()[0] for line in symbols.splitlines()]
        assert any(own in name for name in names)
        foreign = [n for n in names if own not in n and not n.startswith("DW.ref.")]
        assert not foreign, f"{path.name} defines {foreign}"


def test_wide_registers_are_used_where_they_should_be() -> None:
    (lookup,) = [path for path in objects("avx512") if path.name.startswith("segment_sum")]
    assert "zmm" in succeed("objdump", "--disassemble", "--no-show-raw-insn", lookup)
    for path in objects("baseline"):
        code = succeed("objdump", "--disassemble", "--no-show-raw-insn", path)
        assert "ymm" not in code and "zmm" not in code
