"""Pages of rows that are asked for ahead of their batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import myemb
from myemb import disk


def test_bytes_of_pages(tmp_path: Path) -> None:
    page = os.sysconf("SC_PAGESIZE")
    table = disk.map_file(tmp_path / "a", (100, page), torch.uint8, mode="w+")
    assert myemb.prefetch_rows(table, torch.tensor([[3, 99], [4, 3]])) == 3 * page
    assert myemb.prefetch_rows(table[:, 0], torch.tensor([3], dtype=torch.uint8)) == page
    leaf = torch.nn.Parameter(torch.ones(10, 4))
    assert myemb.prefetch_rows(leaf, torch.tensor([1])) in (page, 2 * page)
    with pytest.raises(IndexError, match="index 100 at position 1 "):
        myemb.prefetch_rows(table, torch.tensor([1, 100]))
    with pytest.raises(RuntimeError, match="prefetch_rows: expected a dense CPU tensor"):
        myemb.prefetch_rows(table.to("meta"), torch.tensor([1]))


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_batches_are_asked_for_ahead(ahead: int, count: int) -> None:
    asked: list[int] = []
    table = torch.ones(10, 4)

    def rows(batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield table, torch.tensor([batch])
        asked.append(batch)

    def wait_for(batches: list[int]) -> None:
        deadline = time.monotonic() + 20
        while asked != batches:
            assert time.monotonic() < deadline, (asked, batches)
            time.sleep(0.001)

    given = []
    for batch in disk.prefetch_batches(range(count), rows, ahead=ahead):
        wait_for(list(range(min(count, batch + ahead + 1))))
        given.append(batch)
    assert given == list(range(count))


def test_an_error_ahead_comes_with_its_batch() -> None:
    table = torch.ones(3, 4)
    batches = disk.prefetch_batches([1, 2, 3], lambda i: [(table, torch.tensor([i]))], ahead=3)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(IndexError, match="index 3 at position 0"):
        next(batches)
    with pytest.raises(ValueError, match="ahead has to be at least 1 but got 0"):
        disk.prefetch_batches([1], lambda _: [], ahead=0)
