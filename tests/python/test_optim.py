"""myemb.optim: twenty steps of every optimizer against torch.optim in float64."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from inputs import WIDTHS, assert_near, indices, variants, whole_numbers
from optimizers import (
    CASES,
    KINDS,
    STEPS,
    TORCHS,
    Oracle,
    each_case,
    eighths,
    gradients,
    lookups,
    ours,
    sparse,
    train,
)
from torch import Tensor
from torch.nn import Parameter

from myemb import optim
from myemb.functional import coalesce
from myemb.nn import Embedding, EmbeddingBag

pytestmark = pytest.mark.devices("cpu", why="test_cuda_update.py has the bits of the kernels")
ROWS = 40
INF, NAN = float("inf"), float("nan")


def follow(optimizer: torch.optim.Optimizer, table: Parameter, oracle: Oracle, steps: Any) -> None:
    for gradient in steps:
        table.grad = gradient
        optimizer.step()
        oracle.step(gradient)
    assert_near(table, oracle.weight, terms=STEPS)
    for name, expected in oracle.state.items():
        actual = optimizer.state[table][name]
        assert actual.dtype == (torch.float64 if table.dtype == torch.float64 else torch.float32)
        assert_near(actual, expected, terms=STEPS, scale=4)


@each_case
@pytest.mark.parametrize("width", WIDTHS)
def test_sparse_gradients(case: str, width: int, device: str) -> None:
    dtype = torch.float64 if width in (7, 130) else torch.float32
    num_rows = max(8, min(ROWS, 8000 // width))
    table = Parameter(torch.randn(num_rows, width, dtype=dtype, device=device))
    number = STEPS if width <= 130 else len(KINDS)
    steps = gradients(table, number, size=3 * num_rows // 2, first=width)
    follow(ours(case, [table]), table, Oracle(case, table), steps)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_16_bit_tables(case: str, dtype: torch.dtype, form: str, device: str) -> None:
    """Each step is one in float32, rounded once: ties apart, the nearest number."""
    table = Parameter(torch.randn(ROWS, 33, device=device).to(dtype))
    optimizer, oracle = ours(case, [table]), Oracle(case, table)
    for gradient in gradients(table):
        table.grad = gradient if form == "sparse" else gradient.to_dense()
        optimizer.step()
        oracle.step(table.grad)
        assert_near(table, oracle.weight, scale=0.1)
        assert (table == oracle.weight.to(dtype)).double().mean() > 0.998
        oracle.weight.copy_(table.detach())
    for name, expected in oracle.state.items():
        assert optimizer.state[table][name].dtype == torch.float32
        assert_near(optimizer.state[table][name], expected, terms=STEPS, scale=4)


@each_case
@pytest.mark.parametrize("kind", KINDS)
def test_untouched_rows_stay_untouched(case: str, kind: str, device: str) -> None:
    table = Parameter(torch.randn(ROWS, 7, device=device))
    optimizer = ours(case, [table])
    table.grad = eighths(ROWS, 7, device=device)
    optimizer.step()  # every state is something now
    rows = lookups(kind, 20, ROWS, device)
    states = {name: value.clone() for name, value in optimizer.state[table].items()}
    before = table.detach().clone()
    table.grad = sparse(rows, eighths(len(rows), 7, device=device) + 2, ROWS)
    optimizer.step()
    touched = torch.zeros(ROWS, dtype=torch.bool, device=device)
    touched[rows] = True
    assert torch.equal(table[~touched], before[~touched])
    assert (table[touched] != before[touched]).all()
    for name, value in states.items():
        if name != "step":
            assert torch.equal(optimizer.state[table][name][~touched], value[~touched])


@pytest.mark.parametrize("case", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("width", [1, 33])
def test_against_the_sparse_optimizers_of_torch(case: str, width: int, device: str) -> None:
    """The ones that PyTorch has, without the detour of sub-tables."""
    table = Parameter(torch.randn(ROWS, width, dtype=torch.float64, device=device))
    theirs = Parameter(table.detach().clone())
    name, options = CASES[case]
    factory = {"Adam": torch.optim.SparseAdam}.get(name, TORCHS[name])
    expected, optimizer = factory([theirs], **options), ours(case, [table])
    for gradient in gradients(table):
        table.grad, theirs.grad = gradient, gradient.coalesce()
        optimizer.step()
        expected.step()
    torch.testing.assert_close(table, theirs, rtol=1e-13, atol=1e-14)


SHAPES = [(), (5,), (1, 1), (3, 7), (2, 3, 4), (2, 1, 3, 5), (0,), (0, 4), (3, 0), (2, 0, 3)]


@each_case
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_gradients_of_parameters_of_any_shape(
    case: str, shape: tuple[int, ...], device: str
) -> None:
    table = Parameter(torch.randn(shape, device=device))
    name, options = CASES[case]
    if name == "RowWiseAdagrad" and len(shape) != 2:
        return
    theirs = Parameter(table.detach().cpu().double())
    expected, optimizer = TORCHS[name]([theirs], **options), ours(case, [table])
    for _ in range(STEPS):
        table.grad = eighths(*shape, device=device)
        theirs.grad = table.grad.cpu().double()
        optimizer.step()
        expected.step()
    assert_near(table, theirs, terms=STEPS)


@each_case
def test_dense_and_sparse_gradients_in_turn(case: str, device: str) -> None:
    table = Parameter(torch.randn(ROWS, 33, device=device))
    steps = [
        gradient.to_dense() if step % 3 == 1 else gradient
        for step, gradient in enumerate(gradients(table))
    ]
    follow(ours(case, [table]), table, Oracle(case, table), steps)


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    return variants(tensor) | {"every other row": tensor.repeat_interleave(2, dim=0)[::2]}


@each_case
@pytest.mark.parametrize("layout", ["strided", "offset", "transposed", "every other row"])
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_any_strides(case: str, layout: str, form: str, device: str) -> None:
    start = torch.randn(ROWS, 7, device=device)
    view = layouts(start)[layout]
    whole = torch.as_strided(view, (view.untyped_storage().nbytes() // 4,), (1,), 0)
    other = torch.ones(len(whole), dtype=torch.bool)
    torch.as_strided(other, view.shape, view.stride(), view.storage_offset()).fill_(False)
    between = whole[other].clone()
    tables = {"plain": Parameter(start.clone()), "view": Parameter(view)}
    optimizers = {name: ours(case, [table]) for name, table in tables.items()}
    for _ in range(3):
        rows, values = indices("zipf", 30, ROWS, device=device), eighths(30, 7, device=device)
        dense = eighths(ROWS, 7, device=device)
        tables["plain"].grad = sparse(rows, values, ROWS) if form == "sparse" else dense
        values, dense = layouts(values)[layout], layouts(dense)[layout]
        tables["view"].grad = sparse(rows, values, ROWS) if form == "sparse" else dense
        for optimizer in optimizers.values():
            optimizer.step()
    assert torch.equal(tables["plain"], tables["view"])
    assert torch.equal(whole[other], between)


@each_case
@pytest.mark.parametrize("rounding", ["nearest", "split"])
def test_other_shapes_and_strides(case: str, rounding: str, device: str) -> None:
    if CASES[case][0] == "RowWiseAdagrad":
        return
    start = torch.randn(2, 3, 4, 5, device=device).bfloat16()
    tables = [
        Parameter(start.clone()),
        Parameter(start.clone().to(memory_format=torch.channels_last)),
        Parameter(start.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)),
    ]
    optimizer = ours(case, tables, rounding=rounding)
    for _ in range(3):
        gradient = eighths(*start.shape, dtype=start.dtype, device=device)
        for table in tables:
            table.grad = gradient
        optimizer.step()
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])
    assert not torch.equal(tables[0], start)


@pytest.mark.parametrize("case", ["nesterov", "row wise options", "amsgrad"])
def test_expanded_gradients(case: str, device: str) -> None:
    tables = [Parameter(torch.ones(ROWS, 5, device=device)) for _ in range(4)]
    row, rows = eighths(1, 5, device=device), indices("zipf", 30, ROWS, device=device)
    one = sparse(torch.arange(ROWS), torch.ones(ROWS, 1), ROWS)
    assert one.shape == (ROWS, 1)
    optimizer = ours(case, tables)
    for _ in range(3):
        tables[0].grad = row.expand(ROWS, 5)
        tables[1].grad = row.repeat(ROWS, 1)
        tables[2].grad = sparse(rows, row.expand(30, 5), ROWS)
        tables[3].grad = sparse(rows, row.repeat(30, 1), ROWS)
        optimizer.step()
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[2], tables[3])


@each_case
def test_many_rows_and_threads(case: str, device: str) -> None:
    torch.set_num_threads(2)
    table = Parameter(torch.randn(3000, 33, device=device))
    steps = [
        sparse(rows, eighths(len(rows), 33, device=device), len(table))
        for rows in (
            lookups(kind, 6000, len(table), device) for kind in ("zipf", "one_row", "zipf")
        )
    ]
    follow(ours(case, [table]), table, Oracle(case, table), steps)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("module", [Embedding, EmbeddingBag])
@pytest.mark.parametrize("case", ["adagrad options", "adam", "adamw"])
def test_the_modules(case: str, module: Any, dtype: torch.dtype, device: str) -> None:
    """Gradients from backward(), against torch.nn's module with the same weight."""
    model = module(ROWS, 5, sparse=True, device=device)
    name = module.__name__
    theirs = getattr(torch.nn, name)(ROWS, 5, sparse=True, dtype=torch.float64)
    theirs.load_state_dict(model.state_dict())
    optimizer, oracle = ours(case, model.parameters()), Oracle(case, model.weight)
    for _ in range(STEPS):
        rows = torch.randint(ROWS, (8, 4), device=device, dtype=dtype)
        output = model(rows)
        upstream = eighths(*output.shape, device=device)
        output.backward(upstream)
        optimizer.step()
        optimizer.zero_grad()
        theirs(rows.cpu()).backward(upstream.cpu().double())
        oracle.step(theirs.weight.grad)
        theirs.zero_grad()
    assert_near(model.weight, oracle.weight, terms=STEPS)


@pytest.mark.parametrize("case", [name for name in CASES if "row wise" not in name])
def test_tiny_huge_and_no_numbers(case: str, device: str) -> None:
    """As PyTorch in float32, where squares underflow and overflow, infinities and NaN included."""
    sizes = [0.0, 1e-45, 1e-38, 1e-30, 1e-22, 1e-12, 1e-8, 1e10, 1e18, 1e24, 1e38, INF, -INF, NAN]
    values = torch.tensor(sizes, device=device)
    table, theirs = (Parameter(torch.ones(len(sizes), device=device)) for _ in range(2))
    name, options = CASES[case]
    optimizer, expected = ours(case, [table]), TORCHS[name]([theirs], **options, foreach=False)
    for factor in (1.0, 1.0, -1.0, 0.0):
        table.grad, theirs.grad = values * factor, values * factor
        optimizer.step()
        expected.step()
    close = {"rtol": 1e-5, "atol": 0.0, "equal_nan": True}
    torch.testing.assert_close(table, theirs, **close)
    for key, value in expected.state[theirs].items():
        torch.testing.assert_close(optimizer.state[table][key], value, **close)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_does_not_count_steps(dtype: torch.dtype, device: str) -> None:
    """A step count in bfloat16 would stop at 256."""
    table = Parameter(torch.ones(2, 2, device=device))
    optimizer = optim.Adam([table], rounding="stochastic")
    torch.set_default_dtype(dtype)
    try:
        train(optimizer, table, [torch.ones_like(table)] * 300)
    finally:
        torch.set_default_dtype(torch.float32)
    assert optimizer.state[table]["step"] == 300
    assert optimizer.state[table]["step"].dtype in (torch.float32, torch.float64)


@each_case
def test_the_sums_are_those_of_coalesce(case: str, device: str) -> None:
    """One pass over the entries gives the bits of two."""
    tables = [Parameter(torch.ones(ROWS, 33, device=device)) for _ in range(2)]
    optimizers = [ours(case, [table]) for table in tables]
    for kind in ("zipf", "one_row", "uniform"):
        rows = lookups(kind, 2000, ROWS, device)
        gradient = sparse(rows, torch.randn(2000, 33, device=device), ROWS)
        train(optimizers[0], tables[0], [gradient])
        train(optimizers[1], tables[1], [coalesce(gradient)])
    assert torch.equal(*tables)


def one_step(name: str, gradient: Tensor, **options: Any) -> Tensor:
    table = Parameter(torch.zeros(gradient.shape, device=gradient.device))
    optimizer = getattr(optim, name)([table], **options)
    table.grad = gradient
    optimizer.step()
    return table.detach()


def test_whole_numbers_are_exact(device: str) -> None:
    """Steps without rounding errors, so that == tells every wrong sign and factor."""
    rows = torch.tensor([3, 1, 3, 3], device=device)
    values = whole_numbers(4, 9, device=device)
    gradient, summed = sparse(rows, values, 5), torch.zeros(5, 9, device=device)
    summed.index_add_(0, rows, values)
    assert torch.equal(one_step("SGD", gradient, lr=0.5), -summed / 2)
    assert torch.equal(one_step("SGD", gradient, lr=0.5, maximize=True), summed / 2)
    options = {"lr": 0.5, "momentum": 0.5}
    assert torch.equal(one_step("SGD", gradient, **options, dampening=0.5), -summed / 2)
    assert torch.equal(one_step("SGD", gradient, **options, nesterov=True), -summed * 0.75)
    assert torch.equal(one_step("Adagrad", gradient, lr=0.5, eps=2**-80), -summed.sign() / 2)
    ones = summed.sign()
    ones[ones == 0] = 1
    hit = (ones * 4)[[1, 3]]
    actual = one_step("RowWiseAdagrad", sparse(rows[:2], hit.flip(0), 5), lr=0.5, eps=0.0)
    assert torch.equal(actual[[1, 3]], -hit / 8)
    adam = {"lr": 0.5, "betas": (0.5, 0.75), "eps": 0.0}
    for name in ("Adam", "AdamW"):
        actual = one_step(name, sparse(rows[:2], hit.flip(0), 5), **adam)
        assert torch.equal(actual[[1, 3]], -hit.sign() / 2)
    assert torch.equal(one_step("Adam", ones * 4, **adam), -ones / 2)


def test_the_arguments_are_those_of_torch() -> None:
    for name in ("SGD", "Adagrad", "Adam", "AdamW"):
        theirs = inspect.signature(getattr(torch.optim, name).__init__).parameters
        mine = inspect.signature(getattr(optim, name).__init__).parameters
        for argument, parameter in theirs.items():
            assert mine[argument].default == parameter.default, argument
        positional = [p for p in theirs.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
        assert list(mine)[: len(positional)] == [p.name for p in positional]
        assert list(mine)[len(theirs) :] == ["rounding", "seed"]
    assert set(inspect.signature(optim.RowWiseAdagrad).parameters) == set(
        inspect.signature(optim.Adagrad).parameters
    )
