"""What it takes to look up and train rows of a table in a file that is not in memory.

Run ``make bench-mapped``. It writes a file of random numbers, once, and has the system forget its
pages before every measurement; ``warm`` leaves them. Every batch is looked up as bags of 8, goes
through some layers of a network and back, and its rows are updated in place by a fused SGD. The
ways take turns; what was read comes from ``/proc/self/io``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from machine import describe
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import myemb
from myemb import disk

FILE = Path(__file__).resolve().parents[1] / "build" / "bench" / "mapped.bin"
MIB, GIB = 1 << 20, 1 << 30
WIDTH, BAG = 64, 8


@dataclass
class Way:
    """A way to read a batch's pages, and what it took: seconds and bytes of each round."""

    name: str
    batches: Callable[[list[Tensor], Tensor], Iterable[Tensor]]
    read_ahead: bool = False
    warm: bool = False
    seconds: list[float] = field(default_factory=list)
    read: list[int] = field(default_factory=list)


def as_they_are(batches: list[Tensor], table: Tensor) -> Iterable[Tensor]:
    """Asks for nothing."""
    return batches


def in_their_turn(batches: list[Tensor], table: Tensor) -> Iterator[Tensor]:
    """Asks for a batch's pages just before it is looked up."""
    for batch in batches:
        myemb.prefetch_rows(table, batch)
        yield batch


def ahead(batches: list[Tensor], table: Tensor) -> Iterator[Tensor]:
    """Asks for the pages of the next batch."""
    return disk.prefetch_batches(batches, lambda batch: [(table, batch)])


def write_file(rows: int, console: Console) -> None:
    """Fills the file, unless it is there."""
    size = rows * WIDTH * 4
    if FILE.exists() and FILE.stat().st_size == size:
        return
    FILE.parent.mkdir(parents=True, exist_ok=True)
    table = disk.map_file(FILE, (rows, WIDTH), mode="w+")
    for part in track(table.chunk(64), "writing", console=console):
        part.normal_()
    disk.flush(table)


def forget() -> None:
    """Has the system drop the file's pages, which no mapping may have at the time."""
    handle = os.open(FILE, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def bytes_read() -> int:
    """Returns what the disk has given to this process so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def train(way: Way, rows: int, batches: list[Tensor], layers: torch.nn.Module) -> None:
    """Trains every batch once, and notes what it took."""
    if not way.warm:
        forget()
    table = disk.map_file(FILE, (rows, WIDTH), mode="r+", read_ahead=way.read_ahead)
    bags = myemb.nn.EmbeddingBag.from_pretrained(table, freeze=False)
    optimizer = myemb.optim.SGD(bags.parameters(), lr=1e-6)
    myemb.optim.fuse_in_backward(optimizer, bags)
    read, start = bytes_read(), time.perf_counter()
    for batch in way.batches(batches, table):
        layers(bags(batch)).square().mean().backward()
    way.seconds.append(time.perf_counter() - start)
    way.read.append(bytes_read() - read)


def table_of(ways: list[Way], count: int) -> Table:
    """Returns a line for every way."""
    table = Table(title="Training in a file, per batch", title_justify="left")
    table.add_column("pages")
    for column in ("ms", "least", "most", "MiB read"):
        table.add_column(column, justify="right")
    for way in ways:
        each = [1e3 * seconds / count for seconds in way.seconds]
        times = (median(each), min(each), max(each))
        read = median(way.read) / count / MIB
        table.add_row(way.name, *(f"{value:.1f}" for value in times), f"{read:.1f}")
    return table


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gib", type=float, default=4.0, help="size of the file")
    parser.add_argument("--lookups", type=int, default=4096, help="of a batch")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console = Console(highlight=False)
    rows = int(options.gib * GIB) // (WIDTH * 4)
    write_file(rows, console)
    batches = [torch.randint(rows, (options.lookups // BAG, BAG)) for _ in range(options.batches)]
    layers = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512)
    )
    ways = [
        Way("as the system reads ahead", as_they_are, read_ahead=True),
        Way("one by one (read_ahead=False)", as_they_are),
        Way("asked for in their turn", in_their_turn),
        Way("asked for a batch ahead", ahead),
        Way("in memory", as_they_are, warm=True),
        Way("in memory, asked for a batch ahead", ahead, warm=True),
    ]
    for _ in track(range(options.rounds), "rounds ", console=console):
        for way in ways:
            train(way, rows, batches, layers)
    console.print(table_of(ways, options.batches))
    facts = describe()
    console.print(
        f"{options.gib:g} GiB, batches of {options.lookups:,} rows of {WIDTH * 4} bytes, "
        f"{options.threads} thread(s), median, least and most of {options.rounds} rounds\n"
        f"{facts['cpu']}, {facts['memory_gib']} GiB, Linux {facts['kernel']}, load average "
        f"{os.getloadavg()[0]:.1f}, {facts['date']}"
    )


if __name__ == "__main__":
    main()
