"""What training loops do with an optimizer: schedules, groups, scaling, clipping, hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from inputs import assert_near
from optimizers import (
    CASES,
    STEPS,
    TORCHS,
    Oracle,
    each_case,
    eighths,
    gradients,
    ours,
    sparse,
    train,
)
from torch import Tensor
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from myemb import optim
from myemb.nn import Embedding

pytestmark = pytest.mark.devices("cpu", "cudasim", why="never tried on a GPU")
ROWS, WIDTH = 20, 5


def decay(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def one_cycle(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Of the momentum or beta1, too."""
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS + 1)


@pytest.mark.parametrize("case", ["momentum", "nesterov", "amsgrad", "adamw"])
@pytest.mark.parametrize("schedule", [decay, one_cycle])
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_schedules(case: str, schedule: Callable[..., Any], tensor_lr: bool, device: str) -> None:
    table = Parameter(torch.randn(ROWS, WIDTH, device=device))
    theirs = Parameter(table.detach().cpu().double())
    name, options = CASES[case]
    lr = options["lr"]
    optimizers = [
        ours(case, [table], lr=torch.tensor(lr) if tensor_lr else lr),
        TORCHS[name]([theirs], **options | {"lr": torch.tensor(lr) if tensor_lr else lr}),
    ]
    schedules = [schedule(optimizer) for optimizer in optimizers]
    for _ in range(STEPS):
        table.grad = eighths(ROWS, WIDTH, device=device)
        theirs.grad = table.grad.cpu().double()
        for optimizer, each in zip(optimizers, schedules, strict=True):
            optimizer.step()
            each.step()
    assert_near(table, theirs, terms=STEPS)


@each_case
def test_a_tensor_as_learning_rate_is_read_at_every_step(case: str, device: str) -> None:
    lr = torch.tensor(CASES[case][1].get("lr", 0.5), dtype=torch.float64)
    tables = [Parameter(torch.ones(ROWS, WIDTH, device=device)) for _ in range(2)]
    first, second = ours(case, tables[:1], lr=lr), ours(case, tables[1:], lr=lr.item())
    for gradient in gradients(tables[0], steps=5):
        train(first, tables[0], [gradient])
        train(second, tables[1], [gradient])
        lr /= 2
        second.param_groups[0]["lr"] = lr.item()
    assert torch.equal(tables[0], tables[1])


@each_case
def test_groups(case: str, device: str) -> None:
    """Each with its rate, rounding and seed; one is added later."""
    tables = [Parameter(torch.randn(ROWS, WIDTH, device=device)) for _ in range(3)]
    tables.append(Parameter(torch.randn(ROWS, WIDTH, device=device).bfloat16()))
    alone = [Parameter(table.detach().clone()) for table in tables]
    more = [
        {},
        {"lr": 0.25},
        {"lr": 0.125, "maximize": True},
        {"rounding": "stochastic", "seed": 7},
    ]
    groups = [{"params": [table]} | each for table, each in zip(tables, more, strict=True)]
    optimizer = ours(case, groups[:3])
    optimizer.add_param_group(groups[3])
    optimizers = [ours(case, [table], **each) for table, each in zip(alone, more, strict=True)]
    for _ in range(5):
        for table, single, each in zip(tables, alone, optimizers, strict=True):
            (gradient,) = gradients(table, steps=1)
            table.grad = gradient
            train(each, single, [gradient])
        optimizer.step()
    for table, single in zip(tables, alone, strict=True):
        assert torch.equal(table, single)


@each_case
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grad_scaler(case: str, is_sparse: bool, dtype: torch.dtype, device: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    plain = Embedding(ROWS, WIDTH, sparse=is_sparse, dtype=dtype)
    scaled = Embedding(ROWS, WIDTH, sparse=is_sparse, dtype=dtype)
    scaled.load_state_dict(plain.state_dict())
    rows = torch.randint(ROWS, (30,))
    without, optimizer = ours(case, plain.parameters()), ours(case, scaled.parameters())
    for step in range(8):
        upstream = eighths(30, WIDTH, dtype=dtype)
        without.zero_grad()
        optimizer.zero_grad()
        factor = torch.tensor(float("inf") if step == 4 else 1.0, dtype=dtype)
        loss = (scaled(rows) * upstream * factor).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if step != 4:
            plain(rows).backward(upstream)
            without.step()
    assert scaler.get_scale() == 1024 * 2 / 2 * 2
    assert torch.equal(plain.weight, scaled.weight)


@each_case
@pytest.mark.parametrize("is_sparse", [False, True])
def test_clipping(case: str, is_sparse: bool, device: str) -> None:
    table = Parameter(torch.randn(ROWS, WIDTH, dtype=torch.float64, device=device))
    optimizer, oracle = ours(case, [table]), Oracle(case, table)
    for gradient in gradients(table, steps=6, first=1):
        table.grad = gradient.coalesce() if is_sparse else gradient.to_dense()
        norm = table.grad.to_dense().norm()
        torch.nn.utils.clip_grad_norm_([table], 1.5)
        torch.testing.assert_close(
            table.grad.to_dense().norm(), norm.clamp(max=1.5), atol=1e-5, rtol=1e-5
        )
        oracle.step(table.grad)
        optimizer.step()
    assert_near(table, oracle.weight, terms=STEPS)


@each_case
@pytest.mark.parametrize("kinds", ["sss", "ddd", "sds"])
def test_accumulation_over_three_backwards(case: str, kinds: str, device: str) -> None:
    table = Parameter(torch.randn(ROWS, WIDTH, device=device))
    optimizer, oracle = ours(case, [table]), Oracle(case, table)
    for _ in range(5):
        for kind in kinds:
            rows = torch.randint(ROWS, (9,), device=device)
            output = torch.nn.functional.embedding(rows, table, sparse=kind == "s")
            output.backward(eighths(9, WIDTH, device=device))
        oracle.step(table.grad)
        optimizer.step()
        optimizer.zero_grad()
    assert_near(table, oracle.weight, terms=STEPS)


@each_case
def test_zeroed_gradients(case: str, device: str) -> None:
    """set_to_none=False leaves a sparse gradient that has entries no more, or zeros."""
    tables = [Parameter(torch.ones(ROWS, WIDTH, device=device)) for _ in range(2)]
    theirs = Oracle(case, tables[0])
    optimizer = ours(case, tables[:1])
    (gradient,) = gradients(tables[0], steps=1)
    tables[0].grad = gradient.clone()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    left = tables[0].grad.clone()
    optimizer.step()
    theirs.step(gradient)
    theirs.step(left)
    assert_near(tables[0], theirs.weight, terms=STEPS)


@each_case
def test_a_closure(case: str, device: str) -> None:
    model = Embedding(ROWS, WIDTH, sparse=True, device=device)
    other = Parameter(model.weight.detach().clone())
    rows, upstream = torch.tensor([3, 1, 3], device=device), eighths(3, WIDTH, device=device)
    optimizer, without = ours(case, model.parameters()), ours(case, [other])
    grad_modes = []

    def closure() -> Tensor:
        grad_modes.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (model(rows) * upstream).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        expected = (model(rows) * upstream).sum()
        assert torch.equal(optimizer.step(closure), expected)
    train(without, other, [sparse(rows, upstream, ROWS)])
    assert torch.equal(model.weight, other)
    assert grad_modes == [True]


@each_case
def test_hooks_and_parameters_without_a_gradient(case: str, device: str) -> None:
    tables = [Parameter(torch.ones(ROWS, WIDTH, device=device)) for _ in range(2)]
    optimizer, calls = ours(case, tables), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(optimizer, tables[0], [eighths(ROWS, WIDTH, device=device)])
    assert calls == ["before", "after"]
    assert torch.equal(tables[1], torch.ones_like(tables[1]))
    assert not optimizer.state.get(tables[1])


class HalfStep(optim.SGD):
    """A step of somebody else's, around ours."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            group["lr"] /= 2
        return super().step(closure)


@pytest.mark.parametrize("kind", [optim.SGD, HalfStep])
@pytest.mark.parametrize("everywhere", [False, True])
def test_hooks_run_once_and_see_the_step(
    kind: type[optim.SGD], everywhere: bool, device: str
) -> None:
    """Of every optimizer or of one, also where a subclass has a step of its own."""
    table, calls = Parameter(torch.ones(ROWS, WIDTH, device=device)), []
    optimizer = kind([table], lr=0.5)
    registers = (
        (register_optimizer_step_pre_hook, register_optimizer_step_post_hook)
        if everywhere
        else (optimizer.register_step_pre_hook, optimizer.register_step_post_hook)
    )
    handles = [register(lambda *_: calls.append(table.sum().item())) for register in registers]
    try:
        train(optimizer, table, [torch.ones_like(table)])
    finally:
        for handle in handles:
            handle.remove()
    lr = optimizer.param_groups[0]["lr"]
    assert calls == [ROWS * WIDTH, ROWS * WIDTH * (1 - lr)]


def test_a_profiler_sees_steps(device: str) -> None:
    optimizer = optim.SGD([Parameter(torch.ones(ROWS, WIDTH, device=device))])
    with torch.autograd.profiler.profile() as profile:
        optimizer.zero_grad()
        optimizer.step()
    names = {event.name for event in profile.function_events}
    assert {"Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad"} <= names


def test_steps_are_counted_where_a_rule_or_rounding_wants_them(device: str) -> None:
    """As torch: SGD without momentum has no state, and so none to save."""
    for dtype, rounding, counted in [
        (torch.float32, "nearest", False),
        (torch.float32, "stochastic", False),
        (torch.bfloat16, "nearest", False),
        (torch.bfloat16, "stochastic", True),
    ]:
        table = Parameter(torch.ones(ROWS, WIDTH, dtype=dtype, device=device))
        optimizer = optim.SGD([table], rounding=rounding)
        train(optimizer, table, [torch.ones_like(table)] * 2)
        assert optimizer.state[table] == ({"step": 2} if counted else {})


def test_named_parameters(device: str) -> None:
    model = Embedding(ROWS, WIDTH, device=device)
    optimizer = optim.Adagrad(model.named_parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight"]


@each_case
def test_gradients_are_not_changed(case: str, device: str) -> None:
    table = Parameter(torch.ones(ROWS, WIDTH, device=device))
    optimizer = ours(case, [table])
    for gradient in gradients(table, steps=3):
        for each in (gradient, gradient.to_dense()):
            before, version = each.clone(), each._version
            table.grad = each
            optimizer.step()
            assert each._version == version
            assert not each.is_sparse or not each.is_coalesced()
            assert torch.equal(each.to_dense(), before.to_dense())


@each_case
def test_a_table_saved_for_backward_is_protected(case: str, device: str) -> None:
    """Its version moves, and those of the states, so that autograd notices."""
    table = Parameter(torch.ones(ROWS, WIDTH, device=device))
    optimizer = ours(case, [table])
    train(optimizer, table, [eighths(ROWS, WIDTH, device=device)])
    output, version = table.square(), table._version
    states = [state for name, state in optimizer.state[table].items() if name != "step"]
    versions = [state._version for state in states]
    train(optimizer, table, list(gradients(table, steps=1)))
    assert table._version > version
    assert all(new._version > old for new, old in zip(states, versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward(torch.ones_like(output))


@each_case
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_a_parameter_that_is_no_table_is_protected(
    case: str, shape: tuple[int, ...], device: str
) -> None:
    if CASES[case][0] == "RowWiseAdagrad":
        return
    for start in (torch.ones(shape), torch.ones(*shape, 2)[..., 0]):
        table = Parameter(start.to(device))
        optimizer, output = ours(case, [table]), table.square()
        train(optimizer, table, [torch.ones_like(table)])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.backward(torch.ones_like(output))


def test_gradients_with_a_graph(device: str) -> None:
    """backward(create_graph=True) leaves gradients that want gradients themselves."""
    table = Parameter(torch.ones(ROWS, WIDTH, device=device))
    optimizer = optim.SGD([table], lr=0.5)
    table.pow(2).sum().backward(create_graph=True)
    assert table.grad is not None and table.grad.requires_grad
    optimizer.step()
    assert torch.equal(table, torch.zeros_like(table))
    assert table.is_leaf
    table.grad = None
