"""The Python of the README runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch

README = Path(__file__).parents[2] / "README.md"


def test_python_blocks() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # each goes on where the one before it stopped
    rows, means = names["rows"], names["means"]
    assert isinstance(rows, torch.Tensor) and rows.shape == (2, 4, 64)
    assert isinstance(means, torch.Tensor) and means.shape == (2, 64)
