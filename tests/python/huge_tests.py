"""Run by test_load.py: the ends of tables, batches and numbers that 32 bits cannot hold.

Their memory is mapped and hardly any of it touched: a page that was only read is nobody's.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from inputs import MODES
from torch import Tensor

from myemb.functional import embedding, embedding_bag, embedding_bag_tables, embedding_renorm_

NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
ops = torch.ops.myemb

# Rows and columns: more than 2**31 and 2**32 elements, more bytes than 2**33, more rows than 2**31.
TABLES = {
    "2**31 elements": (2**31 // 64 + 1000, 64, torch.bfloat16),
    "2**32 elements": (2**32 // 32 + 1000, 32, torch.float32),
    "2**31 rows": (2**31 + 1000, 1, torch.float16),
    "2**32 rows": (2**32 + 1000, 2, torch.bfloat16),
}
LAST = 6  # rows that hold values


def mapped(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take memory where they are written."""
    count = torch.Size(shape).numel()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    pages = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype, count=count).view(shape)


@pytest.fixture(params=TABLES, scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Tensor]:
    rows, width, dtype = TABLES[request.param]
    result = mapped((rows, width), dtype)
    result[-LAST:] = torch.arange(1.0, LAST + 1).unsqueeze(1)
    yield result


@pytest.fixture
def lookups(table: Tensor) -> Tensor:
    """Of the last rows, and of the first, which is zero."""
    end = len(table)
    return torch.tensor([[end - 1, 0], [end - 3, end - 1], [end - 2, end - 2]])


def small(table: Tensor, lookups: Tensor) -> tuple[Tensor, Tensor]:
    """The first row and the last ones as a table of their own, and the same lookups of it."""
    rows = torch.cat([table[:1], table[-LAST:]])
    moved = torch.where(lookups > 0, lookups - len(table) + LAST + 1, lookups)
    return rows, moved


def test_lookups(table: Tensor, lookups: Tensor) -> None:
    rows, moved = small(table, lookups)
    assert torch.equal(embedding(lookups, table), F.embedding(moved, rows))
    for bad in (len(table), -1, 2**33, -(2**40)):
        with pytest.raises(IndexError, match=f"{bad}"):
            embedding(torch.tensor([0, bad]), table)


@pytest.mark.parametrize("mode", MODES)
def test_bags(table: Tensor, lookups: Tensor, mode: str) -> None:
    rows, moved = small(table, lookups)
    expected = F.embedding_bag(moved, rows.double(), mode=mode).to(table.dtype)
    assert torch.equal(embedding_bag(lookups, table, mode=mode), expected)
    starts = torch.tensor([0, 2, 4, 6])
    together = embedding_bag_tables(lookups.flatten(), [table], starts, mode=mode)
    assert torch.equal(together, expected)
    padded = embedding_bag(lookups, table, mode=mode, padding_idx=-1)
    assert torch.equal(
        padded, F.embedding_bag(moved, rows.double(), mode=mode, padding_idx=-1).to(table.dtype)
    )


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_sparse_gradients(table: Tensor, lookups: Tensor, mode: str) -> None:
    leaf, upstream = table.detach().requires_grad_(), torch.randn(3, table.size(1)).to(table.dtype)
    output = embedding_bag(lookups, leaf, mode=mode, sparse=True)
    (gradient,) = torch.autograd.grad(output, leaf, upstream)
    assert gradient.shape == table.shape
    assert torch.equal(gradient._indices()[0], lookups.flatten())
    scale = 2 if mode == "mean" else 1
    assert torch.equal(gradient._values(), (upstream / scale).repeat_interleave(2, 0))
    joined = ops.coalesce(gradient)
    assert torch.equal(joined.indices()[0], lookups.unique())


def test_gradients_of_weights(table: Tensor, lookups: Tensor) -> None:
    factors = torch.ones(3, 2, dtype=table.dtype, requires_grad=True)
    output = embedding_bag(lookups, table, mode="sum", per_sample_weights=factors)
    (gradient,) = torch.autograd.grad(output, factors, torch.ones_like(output))
    rows, moved = small(table, lookups)
    assert torch.equal(gradient, rows[moved].float().sum(-1).to(table.dtype))


def test_renorm(table: Tensor, lookups: Tensor) -> None:
    before = table[-LAST:].clone()
    embedding_renorm_(table, lookups, 2.0, float("inf"))
    rows, moved = small(table, lookups)
    expected = torch.embedding_renorm_(
        torch.cat([torch.zeros_like(before[:1]), before]).double(), moved, 2.0, float("inf")
    )
    torch.testing.assert_close(rows, expected.to(table.dtype))
    table[-LAST:] = before


def test_updates(table: Tensor, lookups: Tensor) -> None:
    """Row-wise Adagrad, and momentum, whose states are larger than the table."""
    before = table[-LAST:].clone()
    upstream = torch.ones(3, table.size(1), dtype=table.dtype)
    counts = torch.zeros(LAST + 1).index_add_(0, small(table, lookups)[1].flatten(), torch.ones(6))
    for rule, shape in (("row_wise_adagrad", (len(table),)), ("sgd", table.shape)):
        state = mapped(shape, torch.float32)
        options = {"momentum": 0.5} if rule == "sgd" else {}
        ops.embedding_update_(table, [state], upstream, lookups, rule=rule, lr=1.0, **options)
        steps = counts if rule == "sgd" else (counts > 0).float()
        after = before.float() - steps[1:].unsqueeze(1)
        assert torch.equal(table[-LAST:], after.to(table.dtype))
        sums = counts if rule == "sgd" else counts.square()
        assert torch.equal(state[-LAST:].reshape(LAST, -1)[:, 0], sums[1:])
        table[-LAST:], table[0] = before, 0


# ---- degenerate sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2**31 + 5, 2**40])
def test_tables_without_columns(rows: int) -> None:
    table = torch.empty(rows, 0, requires_grad=True)
    lookups = torch.tensor([[rows - 1, 0], [0, rows - 1]])
    for mode in MODES:
        for sparse in (False, True) if mode != "max" else (False,):
            out = embedding_bag(lookups, table, mode=mode, sparse=sparse)
            assert out.shape == (2, 0)
            (gradient,) = torch.autograd.grad(out, table, torch.empty(2, 0))
            assert gradient.shape == table.shape
    out = embedding(lookups, table, scale_grad_by_freq=True)
    (gradient,) = torch.autograd.grad(out, table, torch.empty(2, 2, 0))
    assert gradient.shape == table.shape
    embedding_renorm_(table.detach(), lookups, 1.0)
    ops.embedding_update_(table.detach(), [], torch.empty(2, 0), lookups, rule="sgd", lr=1.0)
    with pytest.raises(IndexError):
        embedding(torch.tensor([rows]), table)


@pytest.mark.parametrize("mode", MODES)
def test_very_many_empty_bags(mode: str) -> None:
    starts = torch.zeros(2**20, dtype=torch.int32)
    table = torch.randn(5, 3, requires_grad=True)
    out = embedding_bag(torch.empty(0, dtype=torch.int64), table, starts, mode=mode)
    assert out.shape == (2**20, 3)
    assert not out.any()
    (gradient,) = torch.autograd.grad(out, table, torch.ones_like(out))
    assert not gradient.any()
    out = embedding_bag(torch.tensor([4]), table, starts, mode=mode)  # the last has it all
    assert torch.equal(out[-1], table[4])
    assert not out[:-1].any()


@pytest.mark.parametrize("num_weights", [2**40, 2**62])
def test_gradients_that_no_memory_holds(num_weights: int) -> None:
    grad, rows = torch.ones(2, 3), torch.tensor([0, num_weights - 1])
    with pytest.raises(RuntimeError, match=r"memory|overflow"):
        ops.embedding_dense_backward(grad, rows, num_weights)
    with pytest.raises(RuntimeError, match=r"memory|overflow"):
        ops.embedding_bag_dense_backward(
            grad, rows.view(2, 1), None, None, num_weights, False, 0, None, False, None
        )


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_more_lookups_than_31_bits_count(mode: str) -> None:
    """2**31 + 5 of a byte each, all of row 0, in bags whose offsets are as large as int32 has."""
    size = 2**31 + 5
    lookups = mapped((size,), torch.uint8)
    lookups[-3:] = torch.tensor([1, 2, 2], dtype=torch.uint8)
    table = torch.tensor([[0.0], [8.0], [4.0]])
    starts = torch.tensor([0, 2**31 - 1], dtype=torch.int32)
    out = embedding_bag(lookups, table, starts, mode=mode)
    last = {"sum": 16.0, "mean": 16.0 / 6, "max": 8.0}[mode]
    assert out[0, 0] == 0
    torch.testing.assert_close(out[1, 0], torch.tensor(last))
    lookups[-1] = 3
    with pytest.raises(RuntimeError, match=f"Index {size - 1} .*value 3"):
        embedding_bag(lookups, table, starts, mode=mode)
