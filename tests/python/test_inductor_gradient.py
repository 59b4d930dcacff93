"""The dense gradient of lookups under Inductor: no call, and the bits of the plain model."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

import myemb

pytestmark = pytest.mark.devices("cpu", why="Inductor would call a compiler of the GPU's")
ROWS = 50


@pytest.fixture(autouse=True)
def two_threads(device: str, no_graph_caches: None) -> None:
    """Inductor writes other code for one thread."""
    torch.set_num_threads(2)


def gradients(
    model: Callable[..., Tensor], table: torch.nn.Embedding, *inputs: Tensor
) -> tuple[Tensor, Tensor, list[str]]:
    """The table's gradient of the compiled model and of the plain one; and the code."""
    compiled = torch.compile(model, fullgraph=True)
    upstream = torch.randn_like(model(table, *inputs))

    def gradient(called: Callable[..., Tensor]) -> Tensor:
        return torch.autograd.grad(called(table, *inputs), table.weight, upstream)[0]

    found, codes = run_and_get_code(gradient, compiled)
    return found, gradient(model), codes


def calls(codes: list[str]) -> bool:
    return any("myemb.embedding_dense_backward.default(" in code for code in codes)


def scaled(table: torch.nn.Embedding, rows: Tensor, scale: Tensor) -> Tensor:
    return (table(rows) * scale).relu()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shape, padding_idx, width",
    [
        ((6, 5), None, 64),
        ((256,), 3, 64),
        ((2, 1500), 2, 33),
        ((5000,), None, 1),
        ((20_000,), 2, 3),
    ],
)
def test_few_gradients_are_part_of_a_kernel(
    shape: tuple[int, ...], padding_idx: int | None, width: int, threads: int, device: str
) -> None:
    """Of rows with several chunks of lookups, too, and of columns that fill no vector."""
    torch.set_num_threads(threads)
    table = myemb.nn.Embedding(ROWS, width, padding_idx=padding_idx)
    rows = torch.randint(4, shape)  # all of them often
    found, expected, codes = gradients(scaled, table, rows, torch.randn(width))
    assert torch.equal(found, expected)
    assert not calls(codes)
    assert padding_idx is None or not found[padding_idx].any()


def test_one_thread_adds_any_number_of_gradients_as_they_are_made(device: str) -> None:
    """In the order of the lookups, whichever order the gradient has in memory."""
    torch.set_num_threads(1)

    def model(table: torch.nn.Embedding, rows: Tensor, other: Tensor) -> Tensor:
        return (table(rows) * other.permute(2, 1, 0)).permute(2, 1, 0).contiguous()

    table, rows = myemb.nn.Embedding(ROWS, 24), torch.randint(ROWS, (40, 500)).square() % ROWS
    found, expected, codes = gradients(model, table, rows, torch.randn(24, 500, 40))
    assert torch.equal(found, expected)
    assert not calls(codes)


@pytest.mark.parametrize("shape", [(1000,), (20, 50), (4, 5, 50)])
def test_one_thread_stores_no_gradient(shape: tuple[int, ...], device: str) -> None:
    """Nor would PyTorch, whatever the shape of the indices."""
    torch.set_num_threads(1)
    table = myemb.nn.Embedding(ROWS, 24)
    found, expected, codes = gradients(
        lambda table, rows: (table(rows) * 2).relu(), table, torch.randint(ROWS, shape)
    )
    assert torch.equal(found, expected)
    stored = f"empty_strided_cpu(({', '.join(map(str, (*shape, 24)))})"
    assert [stored in code for code in codes] == [True, False]  # The output is.


def test_a_gradient_that_two_tables_read(device: str) -> None:
    torch.set_num_threads(1)
    table, other = myemb.nn.Embedding(ROWS, 24), myemb.nn.Embedding(ROWS, 24)
    found, expected, codes = gradients(
        lambda table, rows: (table(rows) + other(rows)).tanh(), table, torch.randint(ROWS, (20, 50))
    )
    torch.testing.assert_close(found, expected)
    assert not calls(codes)


def test_a_row_of_padding_has_no_gradient_of_nan(device: str) -> None:
    torch.set_num_threads(1)
    table = myemb.nn.Embedding(ROWS, 8, padding_idx=1)
    scale = torch.where(torch.arange(600) < 300, torch.nan, 1.0)[:, None]
    found, expected, _ = gradients(
        lambda table, rows, scale: table(rows) * scale, table, torch.arange(600) // 300 + 1, scale
    )
    assert torch.equal(found[2], expected[2]) and not found[1].any()


def test_a_loop_of_something_longer_does_not_share_them(device: str) -> None:
    """Inductor would put both into one loop over the lookups, for threads to share."""

    def model(table: torch.nn.Embedding, rows: Tensor, long: Tensor) -> Tensor:
        return torch.softmax(long * table(rows).sum(1, keepdim=True), 1).square().sum(1)

    table = myemb.nn.Embedding(ROWS, 8)
    found, expected, codes = gradients(model, table, torch.randint(3, (64,)), torch.rand(64, 4096))
    torch.testing.assert_close(found, expected)
    assert not calls(codes) and not any("atomic_add" in code for code in codes)


def test_what_reads_the_gradient_is_right(device: str) -> None:
    """A table that is read twice: its gradients are added in the graph."""

    def model(table: torch.nn.Embedding, rows: Tensor) -> Tensor:
        return torch.cat([table(rows) * 2, table(rows.flip(0)).relu()])

    found, expected, codes = gradients(model, myemb.nn.Embedding(ROWS, 16), torch.randint(4, (40,)))
    torch.testing.assert_close(found, expected)
    assert not calls(codes)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sums_of_16_bits_are_rounded_once(dtype: torch.dtype, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    table = myemb.nn.Embedding(ROWS, 64, dtype=dtype)
    found, expected, codes = gradients(
        lambda table, rows: table(rows), table, torch.zeros(600).int()
    )
    assert torch.equal(found, expected) and not calls(codes)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_lookups_may_change(threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    table, scale = myemb.nn.Embedding(ROWS, 32), torch.rand(32)
    batches = [(torch.randint(3, (n,)), torch.rand(n, 32)) for n in (20, 700, 5)]

    def all_gradients(model: Callable[..., Tensor]) -> list[Tensor]:
        return [
            torch.autograd.grad(model(table, rows, scale), table.weight, upstream)[0]
            for rows, upstream in batches
        ]

    compiled = torch.compile(scaled, fullgraph=True, dynamic=True)
    found, codes = run_and_get_code(all_gradients, compiled)
    assert all(map(torch.equal, found, all_gradients(scaled)))
    assert not calls(codes) and counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("lookups, rows", [(16 * 1024 + 1, ROWS), (8, 2**18)])
def test_many_gradients_and_large_tables_are_a_call(lookups: int, rows: int, device: str) -> None:
    table = myemb.nn.Embedding(rows, 16)
    inputs = torch.randint(2, (lookups,)), torch.randn(16)
    found, expected, codes = gradients(scaled, table, *inputs)
    assert torch.equal(found, expected)
    assert calls(codes)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bad_index_is_refused(threads: int, device: str) -> None:
    """By the gradient itself: no lookup comes before it."""
    torch.set_num_threads(threads)
    myemb._inductor.register()
    backward = torch.ops.myemb.embedding_dense_backward
    compiled = torch.compile(lambda rows, grad: backward(grad.relu(), rows, ROWS), fullgraph=True)
    for bad, width in itertools.product((ROWS, -1), (64, 0)):
        with pytest.raises(RuntimeError, match="index out of bounds"):
            compiled(torch.full((40,), bad), torch.randn(40, width))
