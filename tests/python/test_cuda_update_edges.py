"""Where the kernels of updates could be wrong and ordinary inputs would not show it.

`make mutate` says which changes of a kernel the tests do not notice; what it found is here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpus import Gpu
from inputs import variants
from test_cuda_bits import starts_of
from test_cuda_edges import LENGTHS, WIDTHS, Chance
from test_cuda_update import KINDS, RULES, Sparse, Table

LAYOUTS = ("contiguous", "strided", "offset", "transposed")


@pytest.mark.parametrize("seed", range(2 * len(RULES) * len(KINDS)))
def test_random_updates(seed: int, gpu: Gpu) -> None:
    chance = Chance(seed)
    rule, (dtype, rounding) = list(RULES)[seed % len(RULES)], KINDS[seed // len(RULES) % len(KINDS)]
    size, width = chance.choice((1, 3, 40, 300)), chance.choice(WIDTHS)
    table = Table.of(rule, dtype, rounding, size, width)
    table.weight.copy_(chance.values(size, width, dtype=dtype))
    changes = {name: chance.choice((0.0, 0.1)) for name in ("weight_decay", "shrink")}
    changes |= {"lr": chance.choice((0.05, 2.0)), "maximize": chance.sometimes()}
    lengths = [chance.choice((*LENGTHS, 2305)) for _ in range(chance.choice((1, 2, 7)))]
    count = sum(lengths)
    if chance.sometimes(0.3):
        dense = chance.values(size, width, dtype=dtype)
        rows = chance.rows(count, size).long()
        grad = chance.choice((dense, Sparse(rows, chance.values(count, width, dtype=dtype), size)))
        table.check(gpu, grad, before=chance.choice((0, 2**32)), changes=changes)
        return
    rows, mode = chance.rows(count, size), chance.choice((0, 1, 2))
    bags: dict[str, Any] = {"offsets": starts_of(tuple(lengths))}
    bags["per_sample_weights"] = chance.values(count, dtype=dtype) if chance.sometimes() else None
    bags["padding_idx"] = chance.choice((None, 0, size - 1))
    if mode == 2:
        maxima = torch.ops.myemb.embedding_bag_max(table.weight, rows, **bags)
        bags["positions"] = maxima[1]
    else:
        bags["scale_grad_by_freq"] = chance.sometimes()
    grad = chance.values(len(lengths), width, dtype=dtype)
    grad = variants(grad)[chance.choice(LAYOUTS)]
    table.check(gpu, grad, changes=changes, indices=rows, bag_mode=mode, **bags)
