"""torch.compile with Inductor: one graph, few compilations, the results of the plain model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

import myemb

pytestmark = [
    pytest.mark.devices("cpu", why="Inductor would call a compiler of the GPU's"),
    pytest.mark.usefixtures("device", "no_graph_caches"),
]
ROWS, WIDTH = 50, 8


def compilations() -> int:
    return int(counters["stats"]["unique_graphs"])


def offsets(lookups: int, bags: int) -> Tensor:
    starts = torch.randint(lookups, (bags - 1,)).sort().values
    return torch.cat([torch.zeros(1, dtype=torch.int64), starts])


class Everything(torch.nn.Module):
    """Every kind of table that one graph may have."""

    def __init__(self, library: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.words = library.Embedding(ROWS, WIDTH, padding_idx=0)
        self.normed = library.Embedding(ROWS, WIDTH, max_norm=1.0)
        self.sparse = library.Embedding(ROWS, WIDTH, sparse=True)
        self.mean = library.EmbeddingBag(ROWS, WIDTH, mode="mean")
        self.max = library.EmbeddingBag(ROWS, WIDTH, mode="max")
        self.sum = library.EmbeddingBag(ROWS, WIDTH, mode="sum")
        self.last = torch.nn.Linear(WIDTH, 4)

    def forward(self, rows: Tensor, lookups: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
        read = self.words(rows) + self.normed(rows) * self.sparse(rows)
        bags = self.mean(lookups, starts) + self.max(lookups, starts)
        bags = bags + self.sum(lookups, starts, weights)
        return self.last(torch.cat([read.flatten(0, 1), bags])).relu()


SIZES = ((6, 20), (9, 31), (13, 50), (4, 17), (31, 99))  # bags and lookups


def test_a_model_compiles_twice_at_most(device: str) -> None:
    plain, model = Everything(torch.nn), Everything(myemb.nn)
    compiled = torch.compile(model, fullgraph=True)
    seen = []
    for bags, lookups in SIZES:
        batch = torch.randint(ROWS, (bags, 3)), torch.randint(ROWS, (lookups,))
        batch = (*batch, offsets(lookups, bags))
        factors = [torch.rand(lookups).requires_grad_()]
        factors.append(factors[0].detach().clone().requires_grad_())
        output, expected = compiled(*batch, factors[0]), plain(*batch, factors[1])
        torch.testing.assert_close(output, expected)
        upstream = torch.randn_like(output)
        output.backward(upstream)
        expected.backward(upstream)
        ours, theirs = [*model.parameters(), factors[0]], [*plain.parameters(), factors[1]]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.grad is not None and other.grad is not None
            assert mine.grad.layout == other.grad.layout
            torch.testing.assert_close(mine.grad.to_dense(), other.grad.to_dense())
            torch.testing.assert_close(mine, other)  # max_norm has scaled the same rows
            mine.grad = other.grad = None
        seen.append(compilations())
    assert seen[0] == 1 and seen[1:] == [2] * 4
    assert not counters["graph_break"]


def test_marked_dimensions_compile_once(device: str) -> None:
    """And sparse gradients leave padding out, which torch.nn cannot compile."""
    bags = myemb.nn.EmbeddingBag(ROWS, WIDTH, mode="sum", sparse=True, padding_idx=0)
    compiled = torch.compile(bags, fullgraph=True)
    for number, size in SIZES[:3]:
        lookups, starts = torch.randint(ROWS, (size,)), offsets(size, number)
        torch._dynamo.mark_dynamic(lookups, 0)
        torch._dynamo.mark_dynamic(starts, 0)
        output, upstream = compiled(lookups, starts), torch.randn(number, WIDTH)
        (gradient,) = torch.autograd.grad(output, bags.weight, upstream)
        plain = bags(lookups, starts)
        (expected,) = torch.autograd.grad(plain, bags.weight, upstream)
        torch.testing.assert_close(output, plain)
        assert gradient.is_sparse and gradient._nnz() == int((lookups != 0).sum())
        torch.testing.assert_close(gradient.to_dense(), expected.to_dense())
    assert compilations() == 1


def test_max_norm_copies_no_table(device: str) -> None:
    table = myemb.nn.Embedding(ROWS, WIDTH, max_norm=1.0)
    compiled = torch.compile(table, fullgraph=True)
    with torch.no_grad():
        rows, (code,) = run_and_get_code(compiled, torch.arange(9))
    written = code[code.index("def call") : code.index("return (")]
    assert "torch.ops.myemb.embedding_renorm_.default(arg" in written
    # The table is an argument of kernels that read nine rows of it, and of nothing that writes it.
    assert "copy_" not in written and written.count(f"({ROWS}, {WIDTH})") == 2
    assert rows.norm(dim=1).max() < 1.001


def step(rows: Tensor, table: torch.nn.Embedding, scale: Tensor) -> Tensor:
    return (table(rows) * scale).relu()


@pytest.mark.parametrize("padding_idx", [None, 3])
def test_few_rows_are_part_of_a_kernel(padding_idx: int | None, device: str) -> None:
    """And their gradients have the same bits."""
    table = myemb.nn.Embedding(ROWS, WIDTH, padding_idx=padding_idx)
    rows = torch.randint(4, (6, 5))  # all of them often
    scale, upstream = torch.randn(WIDTH), torch.randn(6, 5, WIDTH)
    compiled = torch.compile(step, fullgraph=True)

    def gradient(function: Callable[..., Tensor]) -> Tensor:
        return torch.autograd.grad(function(rows, table, scale), table.weight, upstream)[0]

    found, codes = run_and_get_code(gradient, compiled)
    assert torch.equal(found, gradient(step))
    assert not any("torch.ops.myemb" in code for code in codes)
    with pytest.raises(RuntimeError, match="index out of bounds"):
        compiled(torch.full((6, 5), ROWS), table, scale)
    with pytest.raises(RuntimeError, match="index out of bounds"):
        compiled(torch.full((6, 5), -1), table, scale)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_bad_index_is_refused(threads: int, dtype: torch.dtype, device: str) -> None:
    """By whichever thread: with torch.nn the process ends if there are two."""
    torch.set_num_threads(threads)
    compiled = torch.compile(step, fullgraph=True, dynamic=False)
    table, scale = myemb.nn.Embedding(ROWS, 64), torch.randn(64)
    good = torch.randint(ROWS, (50, 9), dtype=dtype).t()
    with torch.no_grad():
        torch.testing.assert_close(compiled(good, table, scale), step(good, table, scale))
        for bad, place in itertools.product((ROWS, -1), ((0, 0), (8, 49))):
            rows = good.clone()
            rows[place] = bad
            with pytest.raises(RuntimeError, match="index out of bounds"):
                compiled(rows, table, scale)


def code_of(model: Callable[..., Tensor], *inputs: Tensor) -> str:
    """What Inductor writes for a model, whose results are checked."""
    with torch.no_grad():
        found, (code,) = run_and_get_code(torch.compile(model, fullgraph=True), *inputs)
        torch.testing.assert_close(found, model(*inputs))
    return str(code)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lookups, calls", [(2**16 - 1, False), (2**16, True)])
def test_rows_that_need_fresh_memory_are_a_call(
    lookups: int, calls: bool, threads: int, device: str
) -> None:
    """16 MiB, unless they are never written."""
    torch.set_num_threads(threads)
    table, rows = myemb.nn.Embedding(ROWS, 64), torch.randint(ROWS, (lookups,))
    linear = torch.nn.Sequential(table, torch.nn.Linear(64, 2))
    for model in (linear, lambda rows: table(rows).view(-1, 2, 32)):
        assert ("torch.ops.myemb.embedding.default" in code_of(model, rows)) == calls
    for model in (lambda rows: table(rows).sum(1), lambda rows: table(rows).relu()):
        assert "torch.ops.myemb" not in code_of(model, rows)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.bfloat16])
def test_tables_of_every_type_are_read_in_a_kernel(dtype: torch.dtype, device: str) -> None:
    torch.set_num_threads(2)
    table = torch.randint(2, (ROWS, 64)).to(dtype)

    def model(rows: Tensor) -> Tensor:
        return myemb.functional.embedding(rows, table)

    assert "torch.ops.myemb" not in code_of(model, torch.randint(ROWS, (40,), dtype=torch.int32))
    assert "torch.ops.myemb" in code_of(model, torch.randint(ROWS, (40,), dtype=torch.uint8))


def test_many_tables_compile_twice_at_most(device: str) -> None:
    tables = [myemb.nn.Table(ROWS, WIDTH, name="a", features=["x", "y"], padding_idx=0)]
    model = myemb.nn.EmbeddingBagCollection([*tables, myemb.nn.Table(20, 4, "max", name="b")])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for bags, length in ((3, 4), (5, 6), (7, 2), (9, 9)):
        batch = {
            "x": torch.randint(ROWS, (bags, length)),
            "y": (torch.randint(ROWS, (2 * bags,)), torch.arange(bags) * 2),
            "b": torch.randint(20, (bags, length + 1)),
        }
        output = compiled(batch)
        upstream = torch.randn_like(output)
        found = torch.autograd.grad(output, [*model.parameters()], upstream)
        plain = model(batch)
        torch.testing.assert_close(output, plain)
        torch.testing.assert_close(
            found, torch.autograd.grad(plain, [*model.parameters()], upstream)
        )
    assert compilations() == 2


def test_fused_tables_and_an_optimizer(device: str) -> None:
    """The step of a fused table under Inductor is that of a dense gradient: SGD's are the same."""
    models = []
    for fused in (False, True):
        torch.manual_seed(6)
        model = torch.nn.Sequential(myemb.nn.Embedding(ROWS, WIDTH), torch.nn.Linear(WIDTH, 2))
        optimizer = myemb.optim.SGD(model.parameters(), lr=0.1)
        if fused:
            myemb.optim.fuse_in_backward(optimizer, model)
            call: Callable[..., Any] = torch.compile(model, fullgraph=True)
        else:
            call = model
        for seed in range(3):
            torch.manual_seed(seed)
            call(torch.randint(ROWS, (40,))).square().sum().backward()
            assert (model[0].weight.grad is None) == fused
            optimizer.step()
            optimizer.zero_grad()
        models.append(model)
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs)
