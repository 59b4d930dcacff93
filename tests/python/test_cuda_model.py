"""The bounds of benchmarks/cuda_model.py, on a few of its cases."""

from __future__ import annotations

import sys

import pytest
import simulator
import torch

sys.path.insert(0, str(simulator.ROOT / "benchmarks"))
import cuda_model
from cuda_model_operators import sectors_of_rows

CASES = [
    cuda_model.Case("uniform", 16, torch.float32),
    cuda_model.Case("zipf", 100, torch.bfloat16),
    cuda_model.Case("uniform", 300, torch.float32),
]


@pytest.mark.skipif(not simulator.ARCHITECTURES, reason="the simulator is not built")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bounds(case: cuda_model.Case) -> None:
    broken = [what for result in cuda_model.measure(case, bags=400) for what in result.broken()]
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)


def test_sectors_of_rows() -> None:
    memory = torch.zeros(64)
    start = -memory.data_ptr() % 32 // 4
    table = memory[start : start + 40].view(4, 10)  # 40 bytes: sectors 0-1, 1-2, 2-3 and 3-4
    assert sectors_of_rows(table, torch.tensor([0, 1, 0])) == 3 * 64
    table = memory[start : start + 40].view(10, 4)  # half a sector
    assert sectors_of_rows(table, torch.arange(10)) == 10 * 32
