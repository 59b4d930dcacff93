"""State of myemb.optim: round trips, from and to torch.optim, copies, and steps that fail."""

from __future__ import annotations

import copy
import io
import pickle
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

from myemb import optim

pytestmark = pytest.mark.devices("cpu", why="test_cuda_update.py has the bits of the kernels")
ROWS, WIDTH = 20, 5
HALF = STEPS // 2
ROUNDINGS = {
    torch.float32: ("nearest",),
    torch.float16: ("nearest", "stochastic"),
    torch.bfloat16: ("nearest", "stochastic", "split"),
}
each_kind = pytest.mark.parametrize(
    "dtype, rounding", [(dtype, name) for dtype, names in ROUNDINGS.items() for name in names]
)
torchs_cases = pytest.mark.parametrize(
    "case", [case for case, (name, _) in CASES.items() if name != "RowWiseAdagrad"]
)


def saved(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "save": saved,
    "deepcopy": copy.deepcopy,
}


def equal_states(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name


@each_case
@each_kind
@pytest.mark.parametrize("way", COPIES)
def test_a_round_trip_changes_no_bit(
    case: str, dtype: torch.dtype, rounding: str, way: str, device: str
) -> None:
    table = Parameter(torch.randn(ROWS, WIDTH, device=device).to(dtype))
    steps = list(gradients(table, steps=6, size=30))
    optimizer = ours(case, [table], rounding=rounding, seed=3)
    train(optimizer, table, steps[:3])
    other = Parameter(table.detach().clone())
    resumed = getattr(optim, CASES[case][0])([other])  # options come with the state
    resumed.load_state_dict(COPIES[way](optimizer.state_dict()))
    equal_states(optimizer.state[table], resumed.state[other])
    train(optimizer, table, steps[3:])
    train(resumed, other, steps[3:])
    assert torch.equal(table, other)
    equal_states(optimizer.state[table], resumed.state[other])


@each_case
def test_copies_of_the_whole_optimizer(case: str, device: str) -> None:
    table = Parameter(torch.randn(ROWS, WIDTH, device=device).bfloat16())
    steps = list(gradients(table, steps=6, size=30))
    optimizer = ours(case, [table], rounding="split")
    train(optimizer, table, steps[:3])
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (other,) = copied.param_groups[0]["params"]
        state = {name: value.clone() for name, value in optimizer.state[table].items()}
        original = table.detach().clone()
        train(copied, other, steps[3:])
        assert torch.equal(table, original)  # nothing is shared
        equal_states(optimizer.state[table], state)
        again = Parameter(original)
        fresh = ours(case, [again])
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(fresh, again, steps[3:])
        assert torch.equal(again, other)


@torchs_cases
@pytest.mark.parametrize("direction", ["from", "to"])
@pytest.mark.parametrize("shape", [(ROWS, WIDTH), (7,), (2, 3, 4)])
@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"fused": True}])
def test_torchs_optimizer_in_the_middle(
    case: str, direction: str, shape: tuple[int, ...], options: dict[str, Any], device: str
) -> None:
    name, common = CASES[case]
    start, steps = torch.randn(shape, device=device), [eighths(*shape) for _ in range(STEPS)]
    expected = Parameter(start.cpu().double())
    train(TORCHS[name]([expected], **common), expected, [step.double() for step in steps])
    table = Parameter(start)
    steps = [step.to(device) for step in steps]
    first = TORCHS[name]([table], **common, **options)
    second: torch.optim.Optimizer = getattr(optim, name)([table], lr=9.0)
    if direction == "to":
        first, second = ours(case, [table], **options), TORCHS[name]([table], lr=9.0)
    train(first, table, steps[:HALF])
    second.load_state_dict(COPIES["save"](first.state_dict()))
    train(second, table, steps[HALF:])
    assert_near(table, expected, terms=STEPS)


@pytest.mark.parametrize("case", ["sgd", "momentum", "adagrad options", "adam", "adamw amsgrad"])
def test_from_torch_before_sparse_steps(case: str, device: str) -> None:
    """Ten dense steps there, ten sparse ones here."""
    table = Parameter(torch.randn(ROWS, WIDTH, device=device))
    name, options = CASES[case]
    oracle, theirs = Oracle(case, table), TORCHS[name]([table], **options)
    dense = [eighths(ROWS, WIDTH, device=device) for _ in range(HALF)]
    train(theirs, table, dense)
    optimizer = getattr(optim, name)([table])
    optimizer.load_state_dict(theirs.state_dict())
    rest = list(gradients(table, steps=HALF))
    train(optimizer, table, rest)
    for gradient in (*dense, *rest):
        oracle.step(gradient)
    assert_near(table, oracle.weight, terms=STEPS)


def test_from_sparse_adam(device: str) -> None:
    table = Parameter(torch.randn(ROWS, WIDTH, device=device))
    steps, oracle = list(gradients(table)), Oracle("adam", table)
    theirs = torch.optim.SparseAdam([table], lr=0.01)
    train(theirs, table, [step.coalesce() for step in steps[:HALF]])
    optimizer = optim.Adam([table])
    optimizer.load_state_dict(COPIES["save"](theirs.state_dict()))
    train(optimizer, table, steps[HALF:])
    for gradient in steps:
        oracle.step(gradient)
    assert_near(table, oracle.weight, terms=STEPS)


@torchs_cases
def test_from_torch_with_other_memory_formats(case: str, device: str) -> None:
    """PyTorch's states have the strides of the parameter."""
    name, options = CASES[case]
    start = torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last)
    expected, table = Parameter(start.cpu().double()), Parameter(start)
    steps = [eighths(*start.shape) for _ in range(4)]
    train(TORCHS[name]([expected], **options), expected, [step.double() for step in steps])
    theirs, optimizer = TORCHS[name]([table], **options), getattr(optim, name)([table])
    train(theirs, table, steps[:2])
    optimizer.load_state_dict(theirs.state_dict())
    train(optimizer, table, steps[2:])
    assert_near(table, expected, terms=4)


@torchs_cases
@pytest.mark.parametrize("direction", ["from", "to"])
def test_a_parameter_that_has_had_no_gradient(case: str, direction: str, device: str) -> None:
    name, options = CASES[case]
    tables = [Parameter(torch.ones(3, 2, device=device)) for _ in range(2)]
    first, second = TORCHS[name](tables, **options), ours(case, tables)
    if direction == "to":
        first, second = second, first
    gradient = eighths(3, 2, device=device)
    train(first, tables[0], [gradient])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, tables[1], [gradient])
    torch.testing.assert_close(tables[0], tables[1])


def test_adamw_decays_whatever_state_it_takes(device: str) -> None:
    """As in PyTorch, where AdamW loads an Adam's state and stays AdamW."""
    table = Parameter(torch.ones(3, 2, device=device))
    optimizer = optim.AdamW([table])
    optimizer.load_state_dict(torch.optim.Adam([table]).state_dict())
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


def test_hooks_of_load_state_dict(device: str) -> None:
    table = Parameter(torch.ones(3, 2, device=device))
    first, second = optim.Adam([table]), optim.Adam([table])
    train(first, table, [eighths(3, 2, device=device)])

    def sevens(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        result = copy.deepcopy(state_dict)
        result["state"][0]["exp_avg"].fill_(7)
        return result

    second.register_load_state_dict_pre_hook(sevens)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.state[table]["exp_avg"], torch.full((3, 2), 7.0, device=device))


def test_a_state_dict_that_does_not_fit_is_refused(device: str) -> None:
    tables = [Parameter(torch.ones(3, 2, device=device)) for _ in range(2)]
    optimizer = optim.Adam(tables[:1])
    train(optimizer, tables[0], [eighths(3, 2, device=device)])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(torch.optim.Adam(tables).state_dict())
    equal_states(optimizer.state_dict()["state"][0], before["state"][0])


def test_a_group_without_the_new_options(device: str) -> None:
    """torch's state_dict has no rounding and no seed; those of the constructor hold."""
    table = Parameter(torch.ones(3, 2, device=device).bfloat16())
    optimizer = optim.SGD([table], rounding="split", seed=5)
    optimizer.load_state_dict(torch.optim.SGD([table], lr=0.25).state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["rounding"], group["seed"]) == (0.25, "split", 5)


def wrong_row() -> Tensor:
    return sparse(torch.tensor([0, ROWS + 7]), torch.ones(2, WIDTH), ROWS)


def element_wise() -> Tensor:
    return torch.ones(ROWS, WIDTH).to_sparse()


@each_case
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bad, message", [(wrong_row, f"{ROWS + 7}"), (element_wise, "sparse_dim")])
def test_a_step_that_fails_leaves_everything(
    case: str, first: bool, bad: Callable[[], Tensor], message: str, device: str
) -> None:
    """The step count and the buffers, too: the next step is as if it had not been tried."""
    table = Parameter(torch.randn(ROWS, WIDTH))
    optimizer = ours(case, [table])
    if not first:
        train(optimizer, table, [eighths(ROWS, WIDTH)])
    other = Parameter(table.detach().clone())
    expected = ours(case, [other])
    expected.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = copy.deepcopy(optimizer.state_dict()["state"])
    table.grad = bad()
    with pytest.raises((IndexError, RuntimeError), match=message):
        optimizer.step()
    assert torch.equal(table, other)
    if before:
        equal_states(optimizer.state[table], before[0])
    gradient = eighths(ROWS, WIDTH)
    train(optimizer, table, [gradient])
    train(expected, other, [gradient])
    equal_states(expected.state[other], optimizer.state[table])
    assert torch.equal(table, other)


@pytest.mark.parametrize("shape", [(5,), (), (2, 3, 4)])
def test_row_wise_adagrad_is_for_tables(shape: tuple[int, ...], device: str) -> None:
    table = Parameter(torch.ones(shape, device=device))
    with pytest.raises(ValueError, match=r"RowWiseAdagrad is for tables of rows.*\["):
        train(optim.RowWiseAdagrad([table]), table, [torch.ones(shape, device=device)])


INVALID = {
    "SGD": [("lr", -1.0), ("momentum", -0.5), ("weight_decay", -2.0), ("rounding", "up")],
    "Adagrad": [("lr_decay", -1.0), ("initial_accumulator_value", -3.0), ("eps", -4.0)],
    "RowWiseAdagrad": [("lr_decay", -1.0), ("initial_accumulator_value", -3.0), ("eps", -4.0)],
    "Adam": [("betas", (1.0, 0.9)), ("betas", (0.9, -0.5)), ("eps", -4.0), ("seed", -1)],
    "AdamW": [("betas", (0.9, 1.5)), ("lr", float("nan")), ("seed", 2**63)],
}


@pytest.mark.parametrize(
    "name, argument, value", [(name, *pair) for name, pairs in INVALID.items() for pair in pairs]
)
def test_arguments_out_of_range(name: str, argument: str, value: Any) -> None:
    wrong = max(value, key=lambda beta: abs(beta - 0.5)) if argument == "betas" else value
    with pytest.raises(ValueError, match=f"{wrong}"):
        getattr(optim, name)([Parameter(torch.ones(2, 2))], **{argument: value})


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RowWiseAdagrad", "Adam", "AdamW"])
def test_what_is_not_there_is_refused(name: str) -> None:
    table = Parameter(torch.ones(2, 2))
    with pytest.raises(NotImplementedError, match="differentiable"):
        getattr(optim, name)([table], differentiable=True)
    if name.startswith("Adam"):
        with pytest.raises(NotImplementedError, match="capturable"):
            getattr(optim, name)([table], capturable=True)
    if name == "SGD":
        with pytest.raises(ValueError, match="Nesterov"):
            optim.SGD([table], nesterov=True)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RowWiseAdagrad", "Adam", "AdamW"])
def test_a_learning_rate_of_two_numbers(name: str) -> None:
    with pytest.raises(ValueError, match="lr must be 1-element"):  # torch's text
        getattr(optim, name)([Parameter(torch.ones(2, 2))], lr=torch.tensor([0.5, 0.25]))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_sparse_gradients_of_what_is_no_table(shape: tuple[int, ...]) -> None:
    """PyTorch's sparse optimizers take them; a clear error is as good, a puzzling one is not."""
    table = Parameter(torch.ones(shape))
    theirs = Parameter(torch.ones(shape))
    gradient = sparse(torch.tensor([0, 1, 1]), torch.ones(3, *shape[1:]), shape[0])
    try:
        train(optim.SGD([table], lr=0.5), table, [gradient])
    except (RuntimeError, ValueError) as error:
        assert "sparse" in str(error) and str(list(shape)) in str(error)
        return
    train(torch.optim.SGD([theirs], lr=0.5), theirs, [gradient])
    assert torch.equal(table, theirs)
