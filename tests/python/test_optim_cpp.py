"""The optimizers of Python make the steps of those of C++, bit by bit.

``tests/cpp/optim_bits_test.cpp`` trains the same tables and expects the same checksums.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import myemb.optim

EXPECTED = {
    "sgd": 337330259267,
    "adagrad": 335364904832,
    "row_wise_adagrad": 335311268639,
    "adam": 327105632475,
    "adamw": 326779378852,
}
optimizers: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: myemb.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "adagrad": lambda p: myemb.optim.Adagrad(p, 0.1, 0.2, 0.01, 0.5, 1e-3),
    "row_wise_adagrad": lambda p: myemb.optim.RowWiseAdagrad(p, 0.1, 0.2, 0.01, 0.5, 1e-3),
    "adam": lambda p: myemb.optim.Adam(p, 0.1, (0.7, 0.9), 0.1, 0.01, amsgrad=True),
    "adamw": lambda p: myemb.optim.AdamW(p, 0.1, (0.7, 0.9), 0.1, 0.1, amsgrad=True),
}


def checksum(table: Tensor) -> int:
    bits = table.detach().view(torch.int32).flatten().to(torch.int64)
    return int((bits * torch.arange(1, bits.numel() + 1)).sum())


@pytest.mark.parametrize("name", optimizers)
def test_steps_have_the_bits_of_cpp(name: str) -> None:
    table = ((torch.arange(35.0) - 17) / 16).view(7, 5).requires_grad_()
    optimizer = optimizers[name]([table])
    rows = torch.tensor([[1, 4, 1]])
    for step in range(10):
        grad = ((torch.arange(35) * 7 + step * 5) % 23 - 11).view(7, 5) / 8
        table.grad = torch.sparse_coo_tensor(rows, grad[:3], (7, 5)) if step % 2 else grad
        optimizer.step()
    assert checksum(table) == EXPECTED[name]
