"""embedding_bag_tables_update_ of the CUDA kernels gives the bits of the CPU's.

On simulated GPUs, and on a real one.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from gpus import Gpu, compare
from inputs import MODES, variants
from tables import Call, make_call
from test_cuda_edges import canonical
from test_cuda_update import KINDS, RULES, Table
from torch import Tensor

ops = torch.ops.myemb
DECAY, MAXIMIZE = {"weight_decay": 0.1}, {"maximize": True}
STEPS = ({}, DECAY, MAXIMIZE, DECAY | MAXIMIZE | {"shrink": 0.01})


@dataclasses.dataclass(frozen=True)
class Step:
    """A step on some tables of a call, and more with what any rule may do besides."""

    call: Call
    tables: list[Table]
    updated: list[int]

    def check(
        self, gpu: Gpu, rule: str, rounding: str, weighted: bool, layout: str = "contiguous"
    ) -> None:
        call, count = self.call, len(self.tables)
        modes = [MODES.index(mode) for mode in call.modes]
        padding = None
        if call.padding is not None:
            padding = [-1 if each is None else each for each in call.padding]
        states = [state for t in self.updated for state in self.tables[t].states]
        weights = [table.weight for table in self.tables]
        has_max = "max" in [call.modes[t] for t in call.features]
        positions = ops.embedding_bag_tables_max(
            weights, call.lookups, call.starts, call.features, modes, call.factors, padding
        )[1]
        dtype = torch.promote_types(weights[0].dtype, weights[-1].dtype)
        upstream = variants(call.upstream().to(dtype))[layout]
        options = RULES[rule] | {"lr": 0.05, "rounding": rounding, "seed": 2**40 + 7}

        def run(
            lookups: Tensor, starts: Tensor, positions: Tensor, upstream: Tensor, *tensors: Tensor
        ) -> list[Tensor]:
            written = tensors[: count + len(states)]
            for step, more in enumerate(STEPS, start=1):
                ops.embedding_bag_tables_update_(
                    written[:count],
                    written[count:],
                    upstream,
                    lookups,
                    starts,
                    positions if has_max else None,
                    call.features,
                    modes,
                    tensors[-1] if weighted else None,
                    padding,
                    self.updated,
                    step=step,
                    **(options | more),
                )
            return canonical(written)

        extra = [call.factors] if weighted else []
        compare(gpu, run, call.lookups, call.starts, positions, upstream, *weights, *states, *extra)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dtype", "rounding"), KINDS)
def test_steps_of_optimizers(rule: str, dtype: torch.dtype, rounding: str, gpu: Gpu) -> None:
    weighted = rule in ("momentum", "adam", "row_wise_adagrad")
    longest = 300 if rule in ("sgd", "row_wise_adagrad decay") else 6
    call = make_call(
        widths=(16, 131, 40, 20, 16, 16),
        modes=("sum", "sum", "max", "mean", "sum", "mean"),
        dtypes=(dtype,),
        features=(0, 2, 1, 4, 0, 3, 5),
        num_bags=6 if longest == 6 else 3,
        longest=longest,
        factors=dtype if weighted else None,
        padding=True,
    )
    tables = [Table.of(rule, dtype, rounding, *weight.shape) for weight in call.weights]
    Step(call, tables, [4, 0, 3, 1, 2]).check(gpu, rule, rounding, weighted)


def test_a_step_of_more_tables_than_a_launch_takes(gpu: Gpu) -> None:
    call = make_call(widths=(4,) * 60, modes=("sum",), num_bags=3, longest=3, padding=True)
    tables = [
        Table.of("adagrad", torch.float32, "nearest", *weight.shape) for weight in call.weights
    ]
    Step(call, tables, list(range(1, 60))).check(gpu, "adagrad", "nearest", False)
