"""Run by test_memory.py: large results are kept and reused, and no tensor shows it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import myemb
from myemb import memory
from myemb.functional import embedding, embedding_bag

MIB = 2**20
WIDTH, ROWS = 256, 40 * 1024  # 40 MiB of float32


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    limit = memory.cache_limit()
    memory.set_cache_limit(200 * MIB)
    gc.collect()
    memory.empty_cache()
    yield
    memory.set_cache_limit(limit)
    memory.empty_cache()


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return torch.randn(50, WIDTH)


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.randint(50, (ROWS,))


def test_a_freed_result_is_used_again(weight: Tensor, rows: Tensor) -> None:
    out = embedding(rows, weight)
    address = out.data_ptr()
    assert memory.cached_bytes() == 0
    del out
    assert memory.cached_bytes() == 40 * MIB
    again = embedding(rows.flip(0), weight)
    assert again.data_ptr() == address
    assert memory.cached_bytes() == 0
    assert torch.equal(again, weight[rows.flip(0)])


def test_results_from_two_mebibytes_on_are_kept(weight: Tensor, rows: Tensor) -> None:
    embedding(rows[:2047], weight)
    assert memory.cached_bytes() == 0
    embedding(rows[:2048], weight)
    assert memory.cached_bytes() == 2 * MIB


def test_small_results_are_not_kept(weight: Tensor) -> None:
    embedding(torch.zeros(1000, dtype=torch.int64), weight)
    assert memory.cached_bytes() == 0


def test_two_results_never_share_memory(weight: Tensor, rows: Tensor) -> None:
    first = embedding(rows, weight)
    second = embedding(rows, weight)
    second.zero_()
    assert torch.equal(first, weight[rows])


def test_a_view_keeps_the_memory(weight: Tensor, rows: Tensor) -> None:
    view = embedding(rows, weight)[-1]
    assert memory.cached_bytes() == 0
    other = embedding(rows, weight)
    other.zero_()
    assert torch.equal(view, weight[rows[-1]])


@pytest.mark.parametrize("mode", ["lookup", "sum", "mean", "max"])
def test_a_reused_gradient_begins_with_zeros(mode: str) -> None:
    table = torch.randn(ROWS, WIDTH, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        table.grad = None
        rows = torch.randint(ROWS, (60,), generator=generator)
        if mode == "lookup":
            out = embedding(rows, table)
            expected = torch.nn.functional.embedding(rows, table)
        else:
            starts = torch.arange(0, 60, 7)
            out = embedding_bag(rows, table, starts, mode=mode)
            expected = torch.nn.functional.embedding_bag(rows, table, starts, mode=mode)
        upstream = torch.randn(out.shape, generator=generator)
        (reference,) = torch.autograd.grad(expected, table, upstream)
        out.backward(upstream)
        assert table.grad is not None
        torch.testing.assert_close(table.grad, reference)
        table.grad.fill_(7)  # what is kept then is not zero


def test_the_limit_bounds_what_is_kept(weight: Tensor, rows: Tensor) -> None:
    memory.set_cache_limit(100 * MIB)
    results = [embedding(rows, weight) for _ in range(4)]
    del results
    assert memory.cached_bytes() == 80 * MIB
    memory.set_cache_limit(50 * MIB)
    assert memory.cached_bytes() == 40 * MIB
    memory.empty_cache()
    assert memory.cached_bytes() == 0


def test_a_result_above_the_limit_is_not_kept(weight: Tensor, rows: Tensor) -> None:
    memory.set_cache_limit(39 * MIB)
    embedding(rows, weight)
    assert memory.cached_bytes() == 0


def test_off(weight: Tensor, rows: Tensor) -> None:
    memory.set_cache_limit(0)
    assert torch.equal(embedding(rows, weight), weight[rows])
    assert memory.cached_bytes() == 0


def test_a_smaller_result_takes_all_of_a_block(weight: Tensor, rows: Tensor) -> None:
    address = embedding(rows, weight).data_ptr()
    smaller = embedding(rows[: 32 * 1024], weight)
    assert smaller.data_ptr() == address
    assert memory.cached_bytes() == 0
    del smaller
    assert memory.cached_bytes() == 40 * MIB
    assert embedding(rows, weight).data_ptr() == address


def test_a_much_smaller_result_does_not_take_a_large_block(weight: Tensor, rows: Tensor) -> None:
    embedding(rows.repeat(3), weight)
    embedding(rows, weight)
    assert memory.cached_bytes() == 160 * MIB


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(RuntimeError, match="bytes must not be negative, but is -1"):
        memory.set_cache_limit(-1)
    assert memory.cache_limit() == 200 * MIB


def test_results_can_be_resized_shared_and_written(weight: Tensor, rows: Tensor) -> None:
    out = embedding(rows, weight)
    out.resize_(2 * ROWS, WIDTH)
    assert torch.equal(out[:ROWS], weight[rows])
    out.resize_(3, WIDTH)
    assert torch.equal(out, weight[rows[:3]])
    out = embedding(rows, weight)
    out.share_memory_()
    assert torch.equal(out, weight[rows])
    out.untyped_storage().resize_(0)
    assert memory.cached_bytes() > 0


def test_the_environment_sets_the_limit() -> None:
    program = "from myemb import memory; print(memory.cache_limit())"
    environment = {**os.environ, "MYEMB_CACHE_LIMIT": "12345"}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "12345"


def _look_up(weight: Tensor, rows: Tensor, results: list[bool]) -> None:
    for _ in range(10):
        results.append(torch.equal(embedding(rows, weight), weight[rows]))


def test_threads(weight: Tensor, rows: Tensor) -> None:
    results: list[bool] = []
    threads = [threading.Thread(target=_look_up, args=(weight, rows, results)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40
    assert all(results)


def _in_child(weight: Tensor, rows: Tensor) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    assert torch.equal(embedding(rows, weight), weight[rows])


def test_a_forked_process_can_use_it(weight: Tensor, rows: Tensor) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        out = embedding(rows, weight)
        process = multiprocessing.get_context("fork").Process(target=_in_child, args=(weight, rows))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert torch.equal(out, weight[rows])
    finally:
        torch.set_num_threads(threads)


# ---- huge pages ----------------------------------------------------------------------------------


def _moved(target: Tensor | torch.nn.Module) -> int:
    try:
        return myemb.huge_pages_(target)
    except RuntimeError as error:
        pytest.skip(str(error))  # the answer where the system cannot


def test_huge_pages_keep_address_and_values() -> None:
    table = torch.randn(20_000, 64)
    before, address = table.clone(), table.data_ptr()
    moved = _moved(table)
    assert 0 < moved <= table.nbytes
    assert moved % (2 * MIB) == 0
    assert table.data_ptr() == address
    assert torch.equal(table, before)


def test_huge_pages_of_a_module() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(20_000, 64), torch.nn.Linear(64, 2))
    assert _moved(model) == _moved(model[0].weight)


def test_huge_pages_of_a_small_tensor() -> None:
    assert myemb.huge_pages_(torch.ones(100)) == 0


def test_huge_pages_of_what_has_none() -> None:
    with pytest.raises(RuntimeError, match=r"expected a dense CPU tensor.*meta"):
        myemb.huge_pages_(torch.empty(10, device="meta"))
    with pytest.raises(RuntimeError, match=r"expected a dense CPU tensor.*Sparse"):
        myemb.huge_pages_(torch.eye(3).to_sparse())
