"""Run by test_disk.py: trains tables of twice the machine's memory, with little memory of its own.

Table and state are files of zeros, of which only the rows that are used take space. What is
learned equals what PyTorch learns on the table of these rows alone.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

import myemb
from myemb import disk

MIB = 2**20
ALLOWED = 256 * MIB  # more than the process has when it begins
WIDTH, BATCHES = 64, 4


def in_memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def train(folder: Path, optimizer: str, num_rows: int, rows: torch.Tensor) -> None:
    """Trains rows of a mapped table, and a table of these rows in PyTorch."""
    table = disk.map_file(folder / "table", (num_rows, WIDTH), mode="w+", read_ahead=False)
    theirs = torch.nn.EmbeddingBag.from_pretrained(torch.randn(len(rows), WIDTH), freeze=False)
    theirs.sparse = True
    table[rows] = theirs.weight.detach()
    ours = myemb.nn.EmbeddingBag.from_pretrained(table, freeze=False)
    optimizers = {
        "SGD": (myemb.optim.SGD, torch.optim.SGD),
        "Adagrad": (myemb.optim.Adagrad, torch.optim.Adagrad),
    }
    our_class, their_class = optimizers[optimizer]
    fused, reference = our_class([ours.weight], lr=0.1), their_class([theirs.weight], lr=0.1)
    if optimizer == "Adagrad":
        fused.state[ours.weight]["sum"] = disk.map_file(
            folder / "sum", (num_rows, WIDTH), mode="w+", read_ahead=False
        )
    myemb.optim.fuse_in_backward(fused, ours)
    bags = [torch.randint(len(rows), (100, 5)) for _ in range(BATCHES)]
    for bag in disk.prefetch_batches(bags, lambda bag: [(table, rows[bag])]):
        output, expected = ours(rows[bag]), theirs(bag)
        torch.testing.assert_close(output, expected)
        upstream = torch.randn_like(output)
        output.backward(upstream)
        reference.zero_grad()
        expected.backward(upstream)
        reference.step()
    assert ours.weight.grad is None
    torch.testing.assert_close(table[rows], theirs.weight.detach())


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    num_rows = 2 * memory // (WIDTH * 4)
    rows = torch.randperm(2**20)[:400] * (num_rows // 2**20) + torch.arange(400)
    limit = in_memory("VmData") + ALLOWED
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        torch.ones(num_rows, WIDTH)
    except RuntimeError:  # as it has to be: the limit holds
        pass
    else:
        raise AssertionError("a table of this size in memory")
    before = in_memory("VmRSS")
    for optimizer in ("SGD", "Adagrad"):
        train(folder, optimizer, num_rows, rows)
    print(f"{num_rows} rows, {(in_memory('VmHWM') - before) // MIB} MiB of memory")
    assert in_memory("VmHWM") - before < ALLOWED


if __name__ == "__main__":
    main()
