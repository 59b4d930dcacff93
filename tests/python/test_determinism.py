"""The same bits for every number of threads and every instruction set, on every run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import myemb

PROGRAM = Path(__file__).with_name("determinism_program.py")
CAPABILITIES = {"default": "DEFAULT", "avx2": "AVX2", "avx512": "AVX512"}


@cache
def report(capability: str) -> dict[str, Any]:
    # passive: more threads than cores wait for each other without spinning
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def different(first: dict[str, str], second: dict[str, str]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if first[name] != second[name]]


def has(capability: str) -> bool:
    order = list(CAPABILITIES.values())
    highest = torch.backends.cpu.get_cpu_capability()
    return highest in order and order.index(CAPABILITIES[capability]) <= order.index(highest)


@pytest.mark.parametrize("threads", ["2", "4", "8"])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_number_of_threads_changes_no_bit(capability: str, threads: str) -> None:
    if not has(capability):
        pytest.skip(f"this machine has no {capability}")
    digests = report(capability)
    assert len(digests["1"]) > 100
    assert different(digests["1"], digests[threads]) == []


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_the_instruction_set_changes_no_bit(capability: str) -> None:
    if not has(capability):
        pytest.skip(f"this machine has no {capability}")
    assert report(capability)["capability"] == CAPABILITIES[capability]
    assert report("default")["capability"] == "DEFAULT"
    assert different(report("default")["1"], report(capability)["1"]) == []


def test_the_digests_can_differ() -> None:
    """One input that differs in its last bit is seen."""
    digests = report("default")["1"]
    assert len(set(digests.values())) > len(digests) // 2


def test_two_threads_take_part() -> None:
    torch.set_num_threads(2)
    assert myemb._C.count_parallel_threads() == 2
    torch.set_num_threads(1)
    assert myemb._C.count_parallel_threads() == 1


def test_deterministic_algorithms_are_never_refused() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        for mode in ("sum", "mean", "max"):
            weight = torch.randn(9, 3, requires_grad=True)
            output = myemb.functional.embedding_bag(torch.tensor([[1, 2]]), weight, mode=mode)
            output.backward(torch.ones_like(output))
    finally:
        torch.use_deterministic_algorithms(False)
