"""Times the operators on a GPU beside PyTorch's and, where it is installed, FBGEMM's.

Run ``python benchmarks/cuda_time.py [--json FILE]``. The libraries are timed in turns with CUDA
events, and the median of all rounds counts. The table is larger than any cache. ``GB/s`` is what
has to be moved at least: the rows that are looked up, the result and the indices.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

import myemb

ROUNDS = 20
CALLS = 10  # in a measurement: enough to hide what launching costs
ROWS, WIDTH = 1_000_000, 128
BAGS, LENGTH = 8192, 20

Case = dict[str, Callable[[], Any]]


def milliseconds(call: Callable[[], object]) -> float:
    """Returns the time of one call on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / CALLS


def measure(case: Case) -> dict[str, float]:
    """Returns the median time of each library's call."""
    times: dict[str, list[float]] = {name: [] for name in case}
    for call in case.values():
        milliseconds(call)  # compiles, allocates, warms up
    for _ in range(ROUNDS):
        for name, call in case.items():
            times[name].append(milliseconds(call))
    return {name: statistics.median(each) for name, each in times.items()}


def fbgemm_bags(weight: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns FBGEMM's sum of bags over a table like ``weight``."""
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    bags = SplitTableBatchedEmbeddingBagsCodegen(
        [(*weight.shape, EmbeddingLocation.DEVICE, ComputeDevice.CUDA)],
        device=torch.cuda.current_device(),
    )
    with torch.no_grad():
        bags.split_embedding_weights()[0].copy_(weight)
    return torch.no_grad()(bags)


def cases(dtype: torch.dtype) -> dict[str, tuple[int, Case]]:
    """Returns each case: the bytes it has to move, and the call of each library."""
    weight = torch.randn(ROWS, WIDTH, device="cuda").to(dtype)
    leaf = weight.clone().requires_grad_()
    rows = torch.randint(ROWS, (BAGS, LENGTH), device="cuda")
    flat, ends = rows.flatten(), torch.arange(0, BAGS * LENGTH + 1, LENGTH, device="cuda")
    factors = torch.rand(BAGS, LENGTH, device="cuda").to(dtype)
    upstream = torch.randn(BAGS, WIDTH, device="cuda").to(dtype)
    row_upstream = torch.randn(BAGS, LENGTH, WIDTH, device="cuda").to(dtype)
    row = WIDTH * weight.element_size()
    read, bag, table = rows.numel() * (row + rows.element_size()), BAGS * row, ROWS * row

    def both(call: Callable[[Any], Any]) -> Case:
        return {"torch": lambda: call(functional), "myemb": lambda: call(myemb.functional)}

    def backward(library: Any, name: str, gradient: Tensor, **options: Any) -> None:
        torch.autograd.grad(getattr(library, name)(rows, leaf, **options), leaf, gradient)

    bag_sum = both(lambda library: library.embedding_bag(rows, weight, mode="sum"))
    if dtype == torch.float32 and importlib.util.find_spec("fbgemm_gpu"):
        fbgemm = fbgemm_bags(weight)
        bag_sum["fbgemm"] = lambda: fbgemm(flat, ends)
    return {
        "lookup": (
            read + rows.numel() * row,
            both(lambda library: library.embedding(rows, weight)),
        ),
        "lookup, dense gradient": (
            2 * (read + rows.numel() * row) + table,
            both(lambda library: backward(library, "embedding", row_upstream)),
        ),
        "bags, sum": (read + bag, bag_sum),
        "bags, weighted sum": (
            read + bag + factors.nbytes,
            both(
                lambda library: library.embedding_bag(
                    rows, weight, mode="sum", per_sample_weights=factors
                )
            ),
        ),
        "bags, mean": (read + bag, both(lambda library: library.embedding_bag(rows, weight))),
        "bags, max": (
            read + bag,
            both(lambda library: library.embedding_bag(rows, weight, mode="max")),
        ),
        "bags, sum, dense gradient": (
            2 * (read + bag) + table,
            both(lambda library: backward(library, "embedding_bag", upstream, mode="sum")),
        ),
        "bags, sum, sparse gradient": (
            2 * (read + bag),
            both(
                lambda library: backward(
                    library, "embedding_bag", upstream, mode="sum", sparse=True
                )
            ),
        ),
    }


def main() -> None:
    """Prints the table and writes the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() or not myemb._C.has_cuda():
        raise SystemExit("no timings: torch sees no GPU, or myemb was built without CUDA")
    device = torch.cuda.get_device_name()
    table = Table("case", "dtype", "library", "µs", "GB/s", title=device)
    results = []
    with torch.random.fork_rng(["cuda"]):
        torch.manual_seed(0)
        for dtype in (torch.float32, torch.float16):
            for name, (moved, case) in cases(dtype).items():
                for library, time in measure(case).items():
                    rate = moved / time / 1e6
                    kind = str(dtype).removeprefix("torch.")
                    table.add_row(name, kind, library, f"{time * 1e3:.1f}", f"{rate:.0f}")
                    results.append(
                        {"case": name, "dtype": kind, "library": library, "ms": time, "GB/s": rate}
                    )
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": device, "results": results}, indent=1))


if __name__ == "__main__":
    main()
