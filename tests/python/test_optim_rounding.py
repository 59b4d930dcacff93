"""16-bit tables: stochastic rounding by a counter, and the halves that make float32 of bfloat16."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from inputs import assert_near, indices, variants
from optimizers import STEPS, Oracle, each_case, eighths, gradients, lookups, ours, sparse, train
from torch import Tensor
from torch.nn import Parameter

from myemb import optim

pytestmark = pytest.mark.devices("cpu", why="test_cuda_update.py has the bits of the kernels")
BF16, FP16 = torch.bfloat16, torch.float16
ROWS = 40
LIMIT = 4.5  # standard deviations; the seeds are fixed
update_ = torch.ops.myemb.embedding_update_


def nudge(start: Tensor, by: Tensor | float, share: float, **key: int) -> Tensor:
    """``start + share * by``, rounded stochastically."""
    table = start.clone()
    gradient = -torch.as_tensor(by).to(start).expand_as(start)
    update_(table, [], gradient, rule="sgd", lr=share, rounding="stochastic", **key)
    return table


def coins(shape: tuple[int, int], device: str, **key: int) -> Tensor:
    """-1 where a half is rounded down, 1 where it is rounded up."""
    start = torch.ones(shape, dtype=BF16, device=device)
    return (nudge(start, 2**-7, 0.5, **key) > 1).double().cpu() * 2 - 1


def independent(first: Tensor, second: Tensor) -> bool:
    return abs((first * second).mean().item()) * math.sqrt(first.numel()) < LIMIT


NUMBERS = {  # a number and how far it is to the next one
    "bf16": (BF16, 1.0, 2.0**-7),
    "bf16 negative": (BF16, -1.5, -(2.0**-7)),
    "bf16 towards zero": (BF16, -1.5, 2.0**-7),
    "bf16 large": (BF16, 2.0**120, 2.0**113),
    "bf16 subnormal": (BF16, 2.0**-128, 2.0**-133),
    "bf16 from zero": (BF16, 0.0, 2.0**-133),
    "fp16": (FP16, 1.0, 2.0**-10),
    "fp16 negative": (FP16, -1.5, -(2.0**-10)),
    "fp16 large": (FP16, 2.0**15, 2.0**5),
    "fp16 to the largest": (FP16, 65472.0, 2.0**5),
    "fp16 subnormal": (FP16, 2.0**-16, 2.0**-24),
    "fp16 to the smallest normal": (FP16, 2.0**-14 - 2.0**-24, 2.0**-24),
    "fp16 from zero": (FP16, 0.0, 2.0**-24),
    "fp16 from zero down": (FP16, 0.0, -(2.0**-24)),
}


@pytest.mark.parametrize("share", [2**-10, 1 / 16, 0.5, 0.75, 63 / 64])
@pytest.mark.parametrize("number", NUMBERS)
def test_the_mean_is_exact(number: str, share: float, device: str) -> None:
    dtype, value, gap = NUMBERS[number]
    start = torch.full((64, 33), value, dtype=dtype, device=device)
    ups = torch.zeros((), dtype=torch.int64, device=device)
    for seed in range(3):
        for step in range(1, 21):
            table = nudge(start, gap, share, seed=seed, step=step)
            is_up = table == value + gap
            assert (is_up | (table == value)).all()
            ups += is_up.sum()
    n = 60 * start.numel()
    assert abs(ups.item() - n * share) < LIMIT * math.sqrt(n * share * (1 - share))


@pytest.mark.parametrize("number", NUMBERS)
def test_what_needs_no_rounding_is_exact(number: str, device: str) -> None:
    dtype, value, gap = NUMBERS[number]
    start = torch.full((64, 33), value, dtype=dtype, device=device)
    for step in range(5):
        assert (nudge(start, gap, 1.0, step=step) == value + gap).all()
        assert (nudge(start, gap, 0.0, step=step) == value).all()


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_small_steps_count_in_the_mean(dtype: torch.dtype, device: str) -> None:
    """Steps of 1/64 of the distance to the next number, which rounding to nearest never makes."""
    gap = torch.finfo(dtype).eps
    tables = [Parameter(torch.ones(64, 64, dtype=dtype, device=device)) for _ in range(2)]
    optimizers = [
        optim.SGD(tables[:1], lr=1 / 64),
        optim.SGD(tables[1:], lr=1 / 64, rounding="stochastic", seed=11),
    ]
    for _ in range(128):
        for table, optimizer in zip(tables, optimizers, strict=True):
            train(optimizer, table, [torch.full_like(table, -gap)])
    assert (tables[0] == 1).all()
    mean = ((tables[1].double() - 1) / gap).mean().item()
    deviation = math.sqrt(128 / 64 * 63 / 64 / tables[1].numel())
    assert abs(mean - 128 / 64) < LIMIT * deviation


def test_rows_columns_steps_and_seeds_are_independent(device: str) -> None:
    faces = torch.stack(
        [
            torch.stack([coins((64, 64), device, seed=seed, step=step) for step in range(8)])
            for seed in range(8)
        ]
    )
    assert abs(faces.mean().item()) * math.sqrt(faces.numel()) < LIMIT
    for axis in range(4):
        for distance in (1, 2, 3, 4):
            there = faces.narrow(axis, distance, faces.size(axis) - distance)
            here = faces.narrow(axis, 0, faces.size(axis) - distance)
            assert independent(here, there), (axis, distance)
    for first in range(4):
        for second in range(first):
            if faces.size(first) == faces.size(second):  # (a, b) and (b, a)
                swapped = faces.transpose(first, second)
                other = swapped != faces
                assert abs(other.double().mean().item() - 0.5) < 0.01 + 0.5 / faces.size(first)
            one = faces.narrow(first, 1, faces.size(first) - 1)
            two = faces.narrow(second, 1, faces.size(second) - 1)
            one = one.narrow(second, 0, faces.size(second) - 1)
            two = two.narrow(first, 0, faces.size(first) - 1)
            assert independent(one, two), (first, second)  # (a + 1, b) and (a, b + 1)


FAR = [1, 2**15, 2**16, 2**31, 2**32, 2**32 + 1, 2**48, 2**62]


@pytest.mark.parametrize("name", ["seed", "step"])
def test_every_bit_of_seed_and_step_counts(name: str, device: str) -> None:
    faces = [coins((64, 64), device, **{name: value}) for value in (0, *FAR)]
    for i, first in enumerate(faces):
        assert all(independent(first, second) for second in faces[:i])


def test_every_bit_of_row_and_column_counts(device: str) -> None:
    tall, wide = coins((2**17 + 64, 1), device), coins((1, 2**17 + 64), device).t()
    for faces in (tall, wide):
        for distance in (256, 2**15, 2**16, 2**17):
            assert independent(faces[:64], faces[distance : distance + 64])
            assert independent(faces[:-distance], faces[distance:]), distance
    assert independent(tall[1:], wide[1:])


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_the_bits_depend_on_nothing_else(dtype: torch.dtype, device: str) -> None:
    """Not on the rest of the table, its layout, the form of the gradient or the call before."""
    start, gradient = torch.ones(ROWS, 33, dtype=dtype, device=device), -(2.0**-13)
    key = {"seed": 5, "step": 9}
    expected = nudge(start, -gradient, 1.0, **key)
    assert 0 < (expected > 1).double().mean() < 1
    for layout in variants(start.clone()).values():
        table = layout
        update_(
            table,
            [],
            torch.full_like(start, gradient),
            rule="sgd",
            lr=1.0,
            rounding="stochastic",
            **key,
        )
        assert torch.equal(table, expected)
    taller, wider = start.repeat(3, 1), start.repeat(1, 3)
    assert torch.equal(nudge(taller, -gradient, 1.0, **key)[:ROWS], expected)
    assert torch.equal(nudge(wider, -gradient, 1.0, **key)[:, :33], expected)
    rows = torch.randperm(ROWS, device=device)[:15].repeat(4)
    table = torch.ones_like(start)
    values = torch.full((len(rows), 33), gradient / 4, dtype=dtype, device=device)
    update_(table, [], sparse(rows, values, ROWS), rule="sgd", lr=1.0, rounding="stochastic", **key)
    assert torch.equal(table[rows], expected[rows])


@pytest.mark.parametrize("rounding", ["stochastic", "split"])
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_values_that_are_not_finite(rounding: str, dtype: torch.dtype, device: str) -> None:
    if rounding == "split" and dtype == FP16:
        return
    inf, nan = math.inf, math.nan
    largest = torch.finfo(dtype).max
    start = torch.tensor([inf, -inf, nan, 1, 1, 1, largest, -largest, -0.0], dtype=dtype)
    gradient = torch.tensor([1, 1, 1, inf, -inf, nan, -largest, largest, 0.0], dtype=dtype)
    expected = torch.tensor([inf, -inf, nan, -inf, inf, nan, inf, -inf, -0.0], dtype=dtype)
    start, gradient, expected = (
        each.to(device).repeat(64, 1) for each in (start, gradient, expected)
    )
    for step in range(4):
        table = start.clone()
        state = [torch.zeros_like(start, dtype=torch.int16)] if rounding == "split" else []
        update_(table, state, gradient, rule="sgd", lr=1.0, rounding=rounding, step=step)
        torch.testing.assert_close(table, expected, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(table.signbit()[:, 8], expected.signbit()[:, 8])


@each_case
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_a_stochastic_step_is_a_step_in_float32(case: str, dtype: torch.dtype, device: str) -> None:
    table = Parameter(torch.randn(ROWS, 33, device=device).to(dtype))
    optimizer, oracle = ours(case, [table], rounding="stochastic", seed=2), Oracle(case, table)
    down, total = 0, 0
    for gradient in gradients(table):
        train(optimizer, table, [gradient])
        oracle.step(gradient)
        error = table.detach().double().cpu() - oracle.weight
        gap = oracle.weight.abs() * torch.finfo(dtype).eps + torch.finfo(dtype).tiny
        assert (error.abs() < 1.001 * gap).all()
        moved = error != 0
        down, total = down + (error[moved] < 0).sum().item(), total + moved.sum().item()
        oracle.weight.copy_(table.detach())
    assert abs(down - total / 2) < 0.05 * total
    for name, expected in oracle.state.items():
        assert_near(optimizer.state[table][name], expected, terms=STEPS, scale=4)


def test_it_is_off_by_default(device: str) -> None:
    for name in ("SGD", "Adagrad", "RowWiseAdagrad", "Adam", "AdamW"):
        table = Parameter(torch.ones(2, 2, device=device))
        assert getattr(optim, name)([table]).defaults["rounding"] == "nearest"
    table = torch.ones(64, 64, dtype=BF16, device=device)
    update_(table, [], torch.full_like(table, -(2.0**-7)), rule="sgd", lr=0.5)
    assert (table == 1).all()  # a tie, to even


@pytest.mark.parametrize("kind", ["zipf", "one_row"])
def test_seed_and_step_of_the_optimizer(kind: str, device: str) -> None:
    tables = [Parameter(torch.ones(ROWS, 33, dtype=BF16, device=device)) for _ in range(3)]
    optimizers = [
        optim.SGD([table], lr=0.01, rounding="stochastic", seed=seed)
        for table, seed in zip(tables, (1, 1, 2), strict=True)
    ]
    before = tables[0].detach().clone()
    for step in range(1, 4):
        rows = indices(kind, 20, ROWS, device=device)
        gradient = sparse(rows, eighths(20, 33, dtype=BF16, device=device), ROWS)
        for table, optimizer in zip(tables, optimizers, strict=True):
            train(optimizer, table, [gradient])
        update_(before, [], gradient, rule="sgd", lr=0.01, rounding="stochastic", seed=1, step=step)
        assert torch.equal(tables[0], before)
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def whole(table: Tensor, low: Tensor) -> Tensor:
    """The float32 numbers of a split table."""
    high = table.detach().contiguous().view(torch.int16).int() << 16
    return (high + low.int()).view(torch.float32)


def nearest(values: Tensor) -> Tensor:
    """In bfloat16, ties away from zero."""
    bits = values.detach().contiguous().view(torch.int32)
    return ((bits + 0x8000) >> 16).to(torch.int16).view(BF16)


@each_case
@pytest.mark.parametrize("form", ["sparse", "dense", "both"])
@pytest.mark.parametrize("width", [1, 7, 130])
def test_split_is_float32_training(case: str, form: str, width: int, device: str) -> None:
    table = Parameter(torch.randn(ROWS, width, device=device).bfloat16())
    full = Parameter(table.detach().float())
    optimizer, expected = ours(case, [table], rounding="split"), ours(case, [full])
    for step, gradient in enumerate(gradients(table)):
        if form == "dense" or (form == "both" and step % 2):
            gradient = gradient.to_dense()
        train(optimizer, table, [gradient])
        train(expected, full, [gradient.float()])
        state = optimizer.state[table]
        assert torch.equal(whole(table, state["low_halves"]), full)
        assert torch.equal(table, nearest(full))
        for name, value in expected.state[full].items():
            assert torch.equal(value, state[name])
        if step == STEPS // 2:
            states = copy.deepcopy(optimizer.state_dict())
            table = Parameter(table.detach().clone())
            optimizer = ours(case, [table], rounding="split")
            optimizer.load_state_dict(states)
    assert (state["low_halves"] != 0).double().mean() > 0.5


@pytest.mark.parametrize("value", [1.0, -1.0, 1.0078125, -1.0078125, 2.0**-133, 2.0**100])
@pytest.mark.parametrize("parts", [-0.5, 0.5, 2**-16, 0.5 - 2**-16, 0.5 + 2**-16])
def test_split_of_ties_and_their_neighbours(value: float, parts: float, device: str) -> None:
    table = Parameter(torch.full((8, 9), value, dtype=BF16, device=device))
    full = Parameter(table.detach().float())
    gap = math.copysign(2.0 ** max(math.floor(math.log2(abs(value))) - 7, -133), value)
    optimizer, expected = optim.SGD([table], lr=1.0, rounding="split"), optim.SGD([full], lr=1.0)
    for group in (*optimizer.param_groups, *expected.param_groups):
        group["lr"], group["maximize"] = abs(parts), parts < 0
    for _ in range(4):
        train(optimizer, table, [torch.full_like(table, -gap)])
        train(expected, full, [torch.full_like(full, -gap)])
        assert torch.equal(whole(table, optimizer.state[table]["low_halves"]), full)
        assert torch.equal(table, nearest(full))


def test_split_beyond_the_largest_bfloat16(device: str) -> None:
    """Where float32 is still finite, the halves know the way back."""
    table = Parameter(torch.full((8, 9), 3.3895313892515355e38, dtype=BF16, device=device))
    full = Parameter(table.detach().float())
    optimizer, expected = optim.SGD([table], lr=1.0, rounding="split"), optim.SGD([full], lr=1.0)
    for part in (-(2.0**119), 2.0**120, -(2.0**119)):
        train(optimizer, table, [torch.full_like(table, part)])
        train(expected, full, [torch.full_like(full, part)])
        assert full.isfinite().all()
        assert torch.equal(whole(table, optimizer.state[table]["low_halves"]), full)
        assert torch.equal(table, nearest(full))


def test_split_is_for_bfloat16(device: str) -> None:
    table = Parameter(torch.ones(2, 3, dtype=FP16, device=device))
    with pytest.raises((RuntimeError, ValueError), match="split is for BFloat16"):
        train(optim.SGD([table], rounding="split"), table, [torch.ones_like(table)])
    assert (table == 1).all()


@pytest.mark.parametrize("rounding", ["stochastic", "split"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_other_parameters_are_stored_as_they_are(
    rounding: str, dtype: torch.dtype, device: str
) -> None:
    """A bias beside a table of 16 bits needs no rounding."""
    table, other = (Parameter(torch.ones(2, 3, dtype=dtype, device=device)) for _ in range(2))
    gradient = torch.full_like(table, 2.0**-20)
    optimizer = optim.SGD([table], lr=1.0, rounding=rounding)
    train(optimizer, table, [gradient])
    train(optim.SGD([other], lr=1.0), other, [gradient])
    assert torch.equal(table, other)
    assert not optimizer.state[table]


@pytest.mark.parametrize("rounding", ["stochastic", "split"])
def test_hot_rows_of_16_bit_tables(rounding: str, device: str) -> None:
    """100,000 lookups of one row are one step of the sum in float32."""
    rows = lookups("one_row", 100_000, ROWS, device)
    values = torch.full((len(rows), 3), 1.0, dtype=BF16, device=device)
    tables = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        table = Parameter(torch.zeros(ROWS, 3, dtype=BF16, device=device))
        train(
            optim.SGD([table], lr=2.0**-10, rounding=rounding), table, [sparse(rows, values, ROWS)]
        )
        tables.append(table.detach())
    assert all(torch.equal(table, tables[0]) for table in tables)
    assert abs(tables[0][ROWS // 2] + 100_000 / 1024).max() <= 0.5
