"""Times the operators on a GPU beside PyTorch's, and against what its memory can do.

Run ``python benchmarks/cuda_time.py [--json FILE] [--case REGEX] [--kernels]``, or ``make
time-cuda``. Each result is first compared with PyTorch's. The libraries are then timed in turns
with CUDA events, so that launches count as soon as the GPU waits for them; the median of the rounds
is shown. The *limit* is the time in which a copy of a large tensor moves the bytes that the work
has to move at least: rows that are looked up, results, indices.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from backward import Backward, FactorsBackward
from case import Case, K, M, named
from engines import MYEMB, Reference
from forward import Bag, Lookup, Renorm
from inputs import Inputs, Shape, lengths_to
from rich.console import Console
from rich.table import Table
from steps import RULES, Step
from tables import Tables, TablesStep
from torch.profiler import ProfilerActivity, profile
from work import TORCH, Call, Work

import myemb

ROUNDS = 15
SAMPLE_MS = 2.0  # of a measurement, at least
PROFILED = 10  # calls
COPIED = 1 << 30  # bytes, of the copy that shows the bandwidth: more than any cache
LIBRARIES = {"torch": TORCH, "myemb": MYEMB}
HAS_FBGEMM = importlib.util.find_spec("fbgemm_gpu") is not None


def shapes() -> Iterator[tuple[str, Work, Shape]]:
    """Yields a family, what is done, and to what: tables larger than any cache, and small calls."""
    rows = [Shape(M, 128, 256 * K), Shape(M, 128, 256 * K, distribution="zipf1.05")]
    rows += [Shape(M, 128, 256 * K, dtype="bf16"), Shape(4 * M, 16, M), Shape(100_000, 768, 64 * K)]
    rows += [Shape(10_000, 64, K)]
    bags = [Shape(M, 128, 1280 * K, 64 * K)]
    bags += [Shape(M, 128, 1280 * K, 64 * K, distribution="zipf1.05", ragged=True)]
    bags += [Shape(M, 128, 1280 * K, 64 * K, dtype="bf16"), Shape(4 * M, 16, 1280 * K, 64 * K)]
    bags += [Shape(100_000, 768, 320 * K, 16 * K), Shape(10_000, 64, 20 * K, K)]
    for shape in rows:
        yield "lookup", Lookup(), shape
        yield "lookup, dense gradient", Backward(), shape
        yield "lookup, coalesced gradient", Backward(layout="coalesced"), shape
        yield "renorm", Renorm(scaled=True), shape
        yield "lookup with max_norm", Lookup(max_norm=True), shape
    for shape in bags:
        yield "bags, sum", Bag(), shape
        yield "bags, weighted sum", Bag(weighted=True), shape
        yield "bags, mean", Bag("mean"), shape
        yield "bags, max", Bag("max", grad=True), shape
        for mode in ("sum", "max"):
            yield f"bags, {mode}, dense gradient", Backward(mode), shape
        yield "bags, sum, sparse gradient", Backward("sum", layout="sparse"), shape
        yield "bags, gradient of weights", FactorsBackward(), shape
        if shape.dtype == "fp32":
            for rule in RULES:
                yield f"step, {rule}", Step(rule, bag=True), shape
    for longest in (20, 1):
        lookups = int(lengths_to(longest, 2 * K).sum())
        shape = Shape(M, 128, lookups, 2 * K, longest=longest, tables=26)
        yield f"26 tables, 1..{longest}", Tables(), shape
        for rule in RULES:
            yield f"26 tables, 1..{longest}, step, {rule}", TablesStep(rule), shape


def cases() -> list[Case]:
    """Returns a case for each."""
    return [
        Case(family, f"{family} {named(shape)}", work, shape) for family, work, shape in shapes()
    ]


def milliseconds(call: Call, calls: int) -> float:
    """Returns the time of one call on the GPU, the mean of some that follow each other."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / calls


def measure(engines: dict[str, Call]) -> dict[str, float]:
    """Returns the median time of each library's call in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    calls = {}
    for name, call in engines.items():
        milliseconds(call, 2)  # compiles, allocates, warms up
        calls[name] = max(1, round(SAMPLE_MS / milliseconds(call, 2)))
    for _ in range(ROUNDS):
        for name, call in engines.items():
            times[name].append(milliseconds(call, calls[name]))
    return {name: statistics.median(each) for name, each in times.items()}


def bandwidth() -> float:
    """Returns the bytes a millisecond that a copy reads and writes."""
    source = torch.randint(127, (COPIED,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPIED / measure({"copy": lambda: target.copy_(source)})["copy"]


def kernels_of(call: Call) -> list[dict[str, Any]]:
    """Returns name, calls and microseconds of the kernels of a call, as the profiler sees them."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED):
            call()
        torch.cuda.synchronize()
    return [
        {
            "name": event.key,
            "calls": event.count / PROFILED,
            "us": event.self_device_time_total / PROFILED,
        }
        for event in profiler.key_averages()
        if event.self_device_time_total > 0
    ]


def fbgemm_bags(inputs: Inputs) -> Call:
    """Returns FBGEMM's sum of bags."""
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    bags = SplitTableBatchedEmbeddingBagsCodegen(
        [(*inputs.weight.shape, EmbeddingLocation.DEVICE, ComputeDevice.CUDA)],
        device=torch.cuda.current_device(),
    )
    with torch.no_grad():
        bags.split_embedding_weights()[0].copy_(inputs.weight)
    return lambda: torch.no_grad()(bags)(inputs.indices, inputs.offsets)


def has_kernel(call: Call) -> bool:
    """Says whether PyTorch can do it with this dtype: not the gradient of mode max in bf16."""
    try:
        call()
    except NotImplementedError:
        return False
    return True


def run(case: Case, inputs: Inputs, profiled: bool) -> dict[str, Any]:
    """Checks and times a case.

    Raises:
        WrongResultError: The result is not PyTorch's.
    """
    reference = Reference(case, inputs)
    reference.check("myemb", reference.sample_of(case.work.call(inputs, MYEMB)))
    del reference
    engines = {name: case.work.call(inputs, library) for name, library in LIBRARIES.items()}
    if not has_kernel(engines["torch"]):
        del engines["torch"]
    if case.work == Bag() and inputs.dtype == torch.float32 and HAS_FBGEMM:
        engines["fbgemm"] = fbgemm_bags(inputs)
    result: dict[str, Any] = {"case": case.name, "family": case.family}
    result |= {"bytes": case.work.moved(inputs), "ms": measure(engines)}
    if profiled:
        result["kernels"] = {name: kernels_of(call) for name, call in engines.items()}
    return result


def table_of(results: list[dict[str, Any]], device: str, rate: float) -> Table:
    """Returns the table that is printed."""
    table = Table(title=f"{device}, a copy moves {rate / 1e6:.0f} GB/s", title_justify="left")
    table.add_column("case", overflow="fold")
    libraries = [*LIBRARIES, *(["fbgemm"] if HAS_FBGEMM else [])]
    for column in (*(f"{name} µs" for name in libraries), "x torch", "GB/s", "of limit"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        times, ours = result["ms"], result["ms"]["myemb"]
        moved = result["bytes"] / ours
        shown = [f"{times[name] * 1e3:.1f}" if name in times else "" for name in libraries]
        speedup = f"{times['torch'] / ours:.2f}" if "torch" in times else ""
        rates = f"{moved / 1e6:.0f}", f"{moved / rate:.2f}"
        table.add_row(result["case"], *shown, speedup, *rates)
    return table


def main() -> None:
    """Prints the table and writes the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    parser.add_argument("--case", default="", help="only cases whose name matches")
    parser.add_argument("--kernels", action="store_true", help="note the time of each kernel, too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() or not myemb._C.has_cuda():
        raise SystemExit("no timings: torch sees no GPU, or myemb was built without CUDA")
    device, rate = torch.cuda.get_device_name(), bandwidth()
    results: list[dict[str, Any]] = []
    for case in cases():
        if not re.search(arguments.case, case.name):
            continue
        results.append(run(case, Inputs(case.shape, device="cuda"), arguments.kernels))
        gc.collect()
        torch.cuda.empty_cache()
        if arguments.json:  # after each: a run that is stopped leaves what it has
            found = {"device": device, "bytes/ms": rate, "results": results}
            arguments.json.write_text(json.dumps(found, indent=1))
    Console(width=150).print(table_of(results, device, rate))


if __name__ == "__main__":
    main()
