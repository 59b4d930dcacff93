"""Prints a digest of outputs and gradients for each number of threads; run by test_determinism.py.

The environment variable ATEN_CPU_CAPABILITY chooses the instruction set before torch is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import myemb
from myemb.functional import embedding, embedding_bag, embedding_renorm_

embedding_update_ = torch.ops.myemb.embedding_update_
THREADS = (1, 2, 4, 8)
WIDTHS = {
    torch.float64: (1, 19),
    torch.float32: (1, 19, 64, 130),
    torch.float16: (19, 64),
    torch.bfloat16: (1, 130),
}
ROWS, BAGS = 4000, 300
ELEMENTS = 280_000  # enough for eight threads to get a share


def digest(*tensors: Tensor) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def numbers(generator: torch.Generator, *shape: int) -> Tensor:
    """Within [-2, 2), of 21 random bits: torch.randn itself depends on the instruction set."""
    return torch.randint(-(2**20), 2**20, shape, generator=generator).double() / 2**19


def skewed(generator: torch.Generator, size: int) -> Tensor:
    """A third of all lookups hit one row, the rest is spread out."""
    rows = torch.randint(ROWS, (size,), generator=generator)
    rows[torch.randint(3, (size,), generator=generator) == 0] = 7
    return rows


def starts(generator: torch.Generator, size: int) -> Tensor:
    """One bag holds most of the lookups, and some are empty."""
    ends = torch.randint(size // 4, (BAGS - 1,), generator=generator).sort().values
    return torch.cat([torch.zeros(1, dtype=torch.int64), ends])


def results(dtype: torch.dtype, width: int) -> Iterator[tuple[str, str]]:
    generator = torch.Generator().manual_seed(width)
    weight = numbers(generator, ROWS, width).to(dtype).requires_grad_()
    size = ELEMENTS // width // 8 * 8
    lookups, offsets = skewed(generator, size), starts(generator, size)
    factors = numbers(generator, size).to(dtype).requires_grad_()
    upstream = numbers(generator, size, width).to(dtype)
    for frequency in (False, True):
        output = embedding(lookups, weight, 3, scale_grad_by_freq=frequency)
        gradient = torch.autograd.grad(output, weight, upstream)
        yield f"embedding frequency={frequency}", digest(output, *gradient)
    for mode in ("sum", "mean", "max"):
        for weights in (None, factors):
            output = embedding_bag(
                lookups, weight, offsets, mode=mode, per_sample_weights=weights, padding_idx=3
            )
            leaves = [weight] if weights is None else [weight, factors]
            gradients = torch.autograd.grad(output, leaves, upstream[:BAGS])
            yield f"bag {mode} weighted={weights is not None}", digest(output, *gradients)
        rows = lookups.view(-1, 8)
        output = embedding_bag(rows, weight, mode=mode)
        yield (
            f"matrix {mode}",
            digest(output, *torch.autograd.grad(output, weight, upstream[: size // 8])),
        )
    for norm_type in (0.0, 1.0, 2.0, float("inf")):
        table = embedding_renorm_(weight.detach().clone(), lookups, 0.9, norm_type)
        yield f"renorm {norm_type}", digest(table)


RULES: dict[str, tuple[int, dict[str, Any]]] = {  # the number of states, and the options
    "sgd": (1, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adagrad": (1, {"eps": 1e-3}),
    "row_wise_adagrad": (1, {"eps": 1e-3, "weight_decay": 0.01}),
    "adam": (3, {"beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "shrink": 0.01, "amsgrad": True}),
}
HOT = 100_000


def roundings(dtype: torch.dtype) -> tuple[str, ...]:
    names = ("nearest", "stochastic", "split")
    return names[: {torch.bfloat16: 3, torch.float16: 2}.get(dtype, 1)]


def updates(dtype: torch.dtype, width: int) -> Iterator[tuple[str, str]]:
    """Two steps of every rule: lookups of which a third is one row, and a gradient for all rows."""
    generator = torch.Generator().manual_seed(width)
    start = numbers(generator, ROWS, width).to(dtype)
    size = HOT if width == 1 else ELEMENTS // width
    lookups = skewed(generator, size)
    if width == 1:
        lookups = torch.full((size,), 7)
    sparse = torch.sparse_coo_tensor(
        lookups.unsqueeze(0),
        numbers(generator, size, width).to(dtype),
        (ROWS, width),
        check_invariants=False,
    )
    dense = numbers(generator, ROWS, width).to(dtype)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    for rule, (number, options) in RULES.items():
        shape = (ROWS,) if rule == "row_wise_adagrad" else (ROWS, width)
        for rounding in roundings(dtype):
            weight = start.clone()
            state = [torch.zeros(shape, dtype=accumulator) for _ in range(number)]
            if rounding == "split":
                state.append(torch.zeros(ROWS, width, dtype=torch.int16))
            for step, gradient in enumerate((sparse, dense)):
                embedding_update_(
                    weight,
                    state,
                    gradient,
                    rule=rule,
                    lr=0.05,
                    rounding=rounding,
                    seed=9,
                    step=step,
                    **options,
                )
                yield f"{rule} {rounding} step {step}", digest(weight, *state)


def main() -> None:
    report: dict[str, object] = {"capability": myemb._C.cpu_capability()}
    for threads in THREADS:
        torch.set_num_threads(threads)
        report[str(threads)] = {
            f"{dtype} {width} {name}": value
            for dtype, widths in WIDTHS.items()
            for width in widths
            for name, value in (*results(dtype, width), *updates(dtype, width))
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
