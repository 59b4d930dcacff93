"""What one call on 8 indices costs, with torch and with myemb: the price of the way to the kernel.

Run ``python benchmarks/small_calls.py``. The two are timed in turns, and the least of the medians
counts, since whatever else the machine does can only add to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.benchmark import Timer

import myemb

ROUNDS = 5
SECONDS = 0.2  # per measurement


def microseconds(call: Callable[[], object]) -> float:
    """Returns the median time of a call."""
    timer = Timer("call()", globals={"call": call})
    return timer.blocked_autorange(min_run_time=SECONDS).median * 1e6


def cases() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Returns each case as the call with torch and the call with myemb."""
    weight = torch.randn(1000, 64)
    trained = torch.randn(1000, 64, requires_grad=True)
    indices, offsets = torch.randint(0, 1000, (8,)), torch.tensor([0, 4])
    gradient = torch.randn(8, 64)
    modules = nn.Embedding(1000, 64), myemb.nn.Embedding(1000, 64)
    theirs, ours = functional, myemb.functional

    def train(embedding: Callable[[Tensor, Tensor], Tensor]) -> None:
        embedding(indices, trained).backward(gradient)

    return {
        "embedding": (
            lambda: theirs.embedding(indices, weight),
            lambda: ours.embedding(indices, weight),
        ),
        "embedding, gradient wanted": (
            lambda: theirs.embedding(indices, trained),
            lambda: ours.embedding(indices, trained),
        ),
        "embedding and its backward": (
            lambda: train(theirs.embedding),
            lambda: train(ours.embedding),
        ),
        "nn.Embedding": (lambda: modules[0](indices), lambda: modules[1](indices)),
        "embedding_bag, sum": (
            lambda: theirs.embedding_bag(indices, weight, offsets, mode="sum"),
            lambda: ours.embedding_bag(indices, weight, offsets, mode="sum"),
        ),
        "embedding_bag, mean, gradient wanted": (
            lambda: theirs.embedding_bag(indices, trained, offsets),
            lambda: ours.embedding_bag(indices, trained, offsets),
        ),
    }


def main() -> None:
    """Prints the table."""
    table = Table("8 indices, 1000 x 64, fp32", "torch µs", "myemb µs", "torch / myemb")
    for name, (theirs, ours) in cases().items():
        rounds = [(microseconds(theirs), microseconds(ours)) for _ in range(ROUNDS)]
        torch_time, myemb_time = (min(times) for times in zip(*rounds, strict=True))
        ratio = torch_time / myemb_time
        table.add_row(name, f"{torch_time:.2f}", f"{myemb_time:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
