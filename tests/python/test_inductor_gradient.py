"""The dense gradient of few lookups under Inductor: no call, and the bits of the plain model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
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
@pytest.mark.parametrize("shape, padding_idx", [((6, 5), None), ((256,), 3)])
def test_few_gradients_are_part_of_a_kernel(
    shape: tuple[int, ...], padding_idx: int | None, threads: int, device: str
) -> None:
    """256 rows of 64: far more than Inductor would leave to one thread."""
    torch.set_num_threads(threads)
    table = myemb.nn.Embedding(ROWS, 64, padding_idx=padding_idx)
    rows = torch.randint(4, shape)  # all of them often
    found, expected, codes = gradients(scaled, table, rows, torch.randn(64))
    assert torch.equal(found, expected)
    assert not calls(codes)
    assert padding_idx is None or not found[padding_idx].any()


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


@pytest.mark.parametrize("lookups, rows", [(257, ROWS), (8, 20_000)])
def test_many_gradients_and_large_tables_are_a_call(lookups: int, rows: int, device: str) -> None:
    """From 257 on, the order has chunks."""
    table = myemb.nn.Embedding(rows, 16)
    inputs = torch.randint(2, (lookups,)), torch.randn(16)
    found, expected, codes = gradients(scaled, table, *inputs)
    assert torch.equal(found, expected)
    assert calls(codes)


def test_a_bad_index_is_refused(device: str) -> None:
    """By the gradient itself: no lookup comes before it."""
    myemb._compile.prepare_inductor()
    backward = torch.ops.myemb.embedding_dense_backward
    compiled = torch.compile(lambda rows, grad: backward(grad.relu(), rows, ROWS), fullgraph=True)
    for bad in (ROWS, -1):
        with pytest.raises(RuntimeError, match="index out of bounds"):
            compiled(torch.full((40,), bad), torch.randn(40, 64))
