"""Run by test_load.py: many threads, forks and signals, without the simulator."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inputs import MODES, indices, offsets, whole_numbers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import myemb
from myemb import memory, optim
from myemb.functional import embedding, embedding_bag, embedding_bag_tables, embedding_renorm_

THREADS = 8
ROWS, WIDTH = 300, 64


# ---- threads -------------------------------------------------------------------------------------


def in_threads(function: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """What ``function(i)`` gives in thread i, all of them at the same time."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def run(i: int) -> None:
        start.wait()
        try:
            results[i] = function(i)
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


Op = Callable[[Tensor, Tensor, Tensor], Tensor]


def of_tables(table: Tensor, lookups: Tensor, starts: Tensor) -> Tensor:
    both = torch.cat([starts, starts[1:-1] + len(lookups), starts.new_tensor([2 * len(lookups)])])
    return embedding_bag_tables(lookups.repeat(2), [table, table], both, mode=["sum", "max"])


OPS: dict[str, Op] = {
    "dense": lambda table, rows, _: embedding(rows, table, padding_idx=3),
    "frequencies": lambda table, rows, _: embedding(rows, table, scale_grad_by_freq=True),
    "sparse": lambda table, rows, _: embedding(rows, table, sparse=True),
    "tables": of_tables,
} | {
    f"bags {mode}": lambda table, rows, starts, mode=mode: embedding_bag(
        rows, table, starts, mode=mode, include_last_offset=True
    )
    for mode in MODES
}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("size", [30, 3000])
def test_threads_that_share_a_table(name: str, size: int) -> None:
    """Each differentiates calls of its own; all bits are those of one thread alone."""
    table = torch.randn(ROWS, WIDTH, requires_grad=True)
    calls = [(indices("zipf", size, ROWS), offsets(size, 9, True)) for _ in range(THREADS)]

    def step(i: int) -> list[Tensor]:
        torch.set_num_threads(1 + i % 3)
        output = OPS[name](table, *calls[i])
        generator = torch.Generator().manual_seed(i)
        upstream = torch.randn(output.shape, generator=generator)
        (gradient,) = torch.autograd.grad(output, table, upstream)
        return [output.detach(), gradient.to_dense()]

    serial = [step(i) for i in range(THREADS)]
    together = in_threads(lambda i: [step(i) for _ in range(10)][-1])
    for ours, alone in zip(together, serial, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, alone, strict=True))


@pytest.mark.parametrize("sparse", [False, True])
def test_threads_that_add_to_one_gradient(sparse: bool) -> None:
    """Whole numbers, whose sum does not depend on who comes first."""
    table = torch.nn.Parameter(torch.zeros(ROWS, WIDTH))
    rows = [indices("zipf", 200, ROWS) for _ in range(THREADS)]
    upstream = [whole_numbers(200, WIDTH) for _ in range(THREADS)]

    def step(i: int) -> None:
        for _ in range(10):
            embedding(rows[i], table, sparse=sparse).backward(upstream[i])

    in_threads(step)
    expected = torch.zeros(ROWS, WIDTH)
    for lookups, values in zip(rows, upstream, strict=True):
        expected.index_add_(0, lookups, values, alpha=10)
    assert table.grad is not None
    assert torch.equal(table.grad.to_dense(), expected)


def test_threads_that_train_tables_of_their_own() -> None:
    """Fused into backward; a registry of fused tables is what they share."""
    rows = indices("zipf", 200, ROWS)
    upstream = torch.randn(200, WIDTH)

    def train(i: int) -> Tensor:
        table = myemb.nn.Embedding.from_pretrained(torch.ones(ROWS, WIDTH), freeze=False)
        optimizer = optim.Adagrad(table.parameters(), lr=0.1)
        handle = optim.fuse_in_backward(optimizer, table)
        for _ in range(20):
            table(rows).backward(upstream)
        handle.remove()
        return table.weight.detach()

    alone = train(0)
    for weight in in_threads(train):
        assert torch.equal(weight, alone)


def test_threads_that_renorm_other_rows_of_one_table() -> None:
    table = torch.full((THREADS * 10, WIDTH), 9.0)

    def renorm(i: int) -> None:
        for _ in range(50):
            embedding_renorm_(table, torch.arange(10 * i, 10 * i + 10), 1.0)

    in_threads(renorm)
    torch.testing.assert_close(table.norm(dim=1), torch.ones(len(table)))


def test_threads_that_renorm_the_same_rows() -> None:
    """A race, as in PyTorch: rows may be scaled twice, and never come out too long."""
    table = torch.full((10, WIDTH), 9.0)
    in_threads(lambda _: [embedding(torch.arange(10), table, max_norm=1.0) for _ in range(50)])
    assert (table.norm(dim=1) <= 1.0001).all()
    assert (table > 0).all()


def test_threads_that_are_refused() -> None:
    """An error is that of its own thread, and so are the others' results."""
    table = torch.randn(ROWS, WIDTH)

    def call(i: int) -> int:
        refused = 0
        for n in range(50):
            bad = ROWS + i if n % 2 else 0
            try:
                embedding(torch.tensor([0, bad]), table)
            except IndexError as error:
                assert f"{bad}" in str(error)
                refused += 1
        return refused

    assert in_threads(call) == [25] * THREADS


def test_threads_and_the_memory_of_large_results() -> None:
    table = torch.randn(50, 256)
    lookups = [torch.randint(50, (6000 + 700 * i,)) for i in range(THREADS)]

    def call(i: int) -> None:
        for n in range(6):
            if n == 3 and i == 0:
                memory.empty_cache()
            out = embedding(lookups[i], table)
            assert torch.equal(out, table[lookups[i]])

    in_threads(call)
    memory.empty_cache()


# ---- fork ----------------------------------------------------------------------------------------


def in_child(function: Callable[[], None], seconds: float = 60) -> None:
    """Runs ``function`` in a child of fork(), which must end by itself."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException as error:
            print("in the child:", repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


class Calls:
    """Calls that are shared among threads where there are some; their inputs are made before."""

    def __init__(self, table: Tensor) -> None:
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randint(len(table), (4000, 4), generator=generator)
        self.upstream = torch.randn(4000, table.size(1), generator=generator)
        self.table = table.detach().requires_grad_()
        self.weight, self.state = table.clone(), torch.zeros_like(table)

    def results(self) -> list[Tensor]:
        found = []
        for mode in MODES:
            out = embedding_bag(self.rows, self.table, mode=mode)
            found += [out.detach(), *torch.autograd.grad(out, self.table, self.upstream)]
        torch.ops.myemb.embedding_update_(
            self.weight, [self.state], found[1], rule="sgd", lr=0.1, momentum=0.5
        )
        embedding_renorm_(self.weight, self.rows, 3.0)
        return [*found, self.weight, self.state]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("threads_of_child", [None, 1])
def test_fork_after_use(threads: int, threads_of_child: int | None) -> None:
    """With OpenMP's threads and the memory of large results: PyTorch's own operators hang there."""
    torch.set_num_threads(threads)
    table = torch.randn(1000, 256)
    first, second, third = Calls(table), Calls(table), Calls(table)
    before = first.results()
    assert memory.cached_bytes() > 0

    def child() -> None:
        if threads_of_child is not None:
            torch.set_num_threads(threads_of_child)
        for ours, parents in zip(second.results(), before, strict=True):
            assert ours.numpy().tobytes() == parents.numpy().tobytes()  # without PyTorch's threads
        memory.empty_cache()
        assert memory.cached_bytes() == 0

    in_child(child)
    assert all(torch.equal(*pair) for pair in zip(third.results(), before, strict=True))
    memory.empty_cache()


def test_fork_of_a_fork() -> None:
    torch.set_num_threads(2)
    rows, table = torch.randint(1000, (4000, 4)), torch.randn(1000, 256)
    before = embedding_bag(rows, table)

    def child() -> None:
        in_child(lambda: check(embedding_bag(rows, table)), seconds=20)

    def check(result: Tensor) -> None:
        assert result.numpy().tobytes() == before.numpy().tobytes()

    in_child(child)


def test_fork_while_other_threads_are_in_calls() -> None:
    table, stop = torch.randn(50, 256), threading.Event()
    rows = torch.randint(50, (4000,))

    def busy() -> None:
        while not stop.is_set():
            embedding(rows, table)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            in_child(lambda: [embedding(rows, table) for _ in range(5)] and None)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    memory.empty_cache()


class Bags(Dataset[Tensor]):
    """Its items are bags of a table: computed in the workers."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __len__(self) -> int:
        return 16

    def __getitem__(self, item: int) -> Tensor:
        generator = torch.Generator().manual_seed(item)
        rows = torch.randint(len(self.table), (500, 3), generator=generator)
        return embedding_bag(rows, self.table)


def test_workers_of_a_data_loader() -> None:
    torch.set_num_threads(2)
    dataset = Bags(torch.randn(1000, 256))
    expected = torch.stack([dataset[item] for item in range(len(dataset))])
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(loader)), expected)


# ---- signals -------------------------------------------------------------------------------------


def test_interrupts() -> None:
    """Ctrl-C between any two calls; the table is whole and everything goes on working."""
    table = myemb.nn.Embedding(ROWS, WIDTH, sparse=True)
    optimizer = optim.RowWiseAdagrad(table.parameters(), lr=0.01)
    optim.fuse_in_backward(optimizer, table)
    rows = indices("zipf", 60, ROWS)
    interrupted = 0
    for _ in range(20):
        timer = threading.Timer(0.01, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with contextlib.suppress(KeyboardInterrupt):
            while timer.is_alive():
                table(rows).square().sum().backward()
            time.sleep(0.05)
        interrupted += 1
        timer.join()
    assert interrupted == 20
    table(rows).square().sum().backward()
    assert table.weight.grad is None
    assert table.weight.isfinite().all()
