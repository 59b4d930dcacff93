"""torch.ops.myemb.embedding_update_: the gradients of lookups, layouts, versions and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import simulator
import torch
from inputs import INDEX_DTYPES, MODES, assert_near, indices, offsets, variants, whole_numbers
from optimizers import NUM_STATES, RULES, Oracle, eighths, sparse
from torch import Tensor
from torch.nn import Parameter

pytestmark = pytest.mark.devices(
    "cpu", "cudasim", why="errors in values end the use of CUDA; test_cuda_update.py runs on a GPU"
)
ops = torch.ops.myemb
update_ = ops.embedding_update_
ROWS = 40


def call(rule: str, weight: Tensor, grad: Tensor, *where: Any, **more: Any) -> list[Tensor]:
    """The first step of a rule."""
    _, options, own = RULES[rule]
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    shape = weight.shape[:1] if rule == "row wise" else weight.shape
    state = [torch.zeros(shape, dtype=dtype, device=weight.device) for _ in range(NUM_STATES[rule])]
    given = {name: value for name, value in options.items() if name != "betas"} | own | more
    update_(weight, state, grad, *where, **given)
    return state


def expected_after(rule: str, weight: Tensor, gradient: Tensor) -> Tensor:
    case, options, _ = RULES[rule]
    oracle = Oracle(case, weight, **options)
    oracle.step(gradient)
    return oracle.weight


def of_the_lookups(weight: Tensor, rows: Tensor, output: Callable[[Tensor], Tensor]) -> Any:
    """A float64 table, and how its gradient becomes one of the rows that were looked up."""
    table = weight.detach().cpu().double().requires_grad_()
    result = output(table)

    def gradient(upstream: Tensor) -> Tensor:
        (dense,) = torch.autograd.grad(result, table, upstream.cpu().double())
        named = rows.cpu().long().flatten().unique()
        return sparse(named, dense[named], len(weight))

    return result, gradient


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("padding_idx", [None, 7])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["matrix", "offsets", "last"])
def test_the_gradient_of_bags(
    rule: str, mode: int, padding_idx: int | None, weighted: bool, form: str, device: str
) -> None:
    frequency = mode != 2 and form != "last"
    weight = torch.randn(ROWS, 33, device=device)
    rows, starts = indices("zipf", 120, ROWS, device=device), None
    rows[5] = 7
    if form == "matrix":
        rows = rows.view(30, 4)
    else:
        starts = offsets(120, 30, form == "last", device=device)
    factors = eighths(*rows.shape, device=device) if weighted else None
    reference_bag = lambda table: reference.bag(  # noqa: E731
        table,
        rows.cpu(),
        None if starts is None else starts.cpu(),
        MODES[mode],
        None if factors is None else factors.cpu().double(),
        frequency,
        form == "last",
        padding_idx,
    )
    named = rows.flatten()
    if padding_idx is not None:
        named = named[named != padding_idx]
    output, gradient_of = of_the_lookups(weight, named, reference_bag)
    upstream = eighths(*output.shape, device=device)
    positions = None
    if mode == 2:
        positions = ops.embedding_bag_max(
            weight, rows, starts, factors, form == "last", padding_idx
        )[1]
    expected = expected_after(rule, weight, gradient_of(upstream))
    before = weight.clone()
    where = (rows, starts, positions, factors, frequency, mode, form == "last", padding_idx)
    call(rule, weight, upstream, *where)
    assert_near(weight, expected, terms=200)
    untouched = torch.ones(ROWS, dtype=torch.bool, device=device)
    untouched[named] = False
    assert torch.equal(weight[untouched], before[untouched])
    assert (
        (weight[~untouched] != before[~untouched]).any(1).all() or rule == "momentum" or mode == 2
    )


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
@pytest.mark.parametrize("width", [1, 130, 514])
@pytest.mark.parametrize("kind", ["uniform", "zipf", "one_row", "distinct"])
def test_whole_numbers(dtype: torch.dtype, width: int, kind: str, device: str) -> None:
    """A plain lookup is bags of one; sums are exact, in 16 bits, too."""
    rows = indices(kind, 30, ROWS, device=device, dtype=dtype)
    for table in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        start = whole_numbers(ROWS, width, dtype=table, device=device)
        upstream = whole_numbers(30, width, dtype=table, device=device, limit=1)
        expected = start.double().index_add(0, rows.long(), upstream.double(), alpha=-2)
        weight = start.clone()
        update_(weight, [], upstream, rows.view(30, 1), rule="sgd", lr=2.0)
        assert torch.equal(weight.double(), expected)
        weight = start.clone()
        update_(weight, [], sparse(rows, upstream, ROWS), rule="sgd", lr=2.0)
        assert torch.equal(weight.double(), expected)


@pytest.mark.parametrize("rule", RULES)
def test_lookups_and_their_sparse_gradient_give_the_same_bits(rule: str, device: str) -> None:
    rows, upstream = (
        indices("zipf", 3000, ROWS, device=device),
        torch.randn(3000, 33, device=device),
    )
    tables = [torch.ones(ROWS, 33, device=device) for _ in range(2)]
    first = call(rule, tables[0], upstream, rows.view(-1, 1))
    second = call(rule, tables[1], sparse(rows, upstream, ROWS))
    assert torch.equal(*tables)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("rule", ["momentum", "row wise", "adam"])
@pytest.mark.parametrize("layout", ["strided", "offset", "transposed"])
def test_layouts_of_the_gradient_and_the_table(rule: str, layout: str, device: str) -> None:
    rows, upstream = (
        indices("zipf", 60, ROWS, device=device).view(20, 3),
        eighths(20, 7, device=device),
    )
    plain = torch.randn(ROWS, 7, device=device)
    view = variants(plain.clone())[layout]
    padded = torch.stack([rows, rows + 1], dim=-1)[..., 0]
    first = call(rule, plain, upstream, rows)
    second = call(rule, view, variants(upstream)[layout], padded)
    assert torch.equal(plain, view)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    call(rule, plain, upstream[:1].expand(20, 7), rows)
    call(rule, view, upstream[:1].repeat(20, 1), rows)
    assert torch.equal(plain, view)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0, 0), (5, 3)])
def test_nothing_to_do(rule: str, shape: tuple[int, int], device: str) -> None:
    none = torch.empty(0, dtype=torch.int64, device=device)
    weight = torch.ones(shape, device=device)
    call(rule, weight, sparse(none, weight.new_empty(0, shape[1]), shape[0]))
    call(rule, weight, weight.new_empty(0, shape[1]), none.view(0, 1))
    call(rule, weight, weight.new_ones(2, shape[1]), none, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(weight, torch.ones(shape, device=device))
    call(rule, weight, torch.ones(shape, device=device))
    if shape == (5, 3):
        assert (weight < 1).all()


def test_a_hot_row_among_others(device: str) -> None:
    """It is shared by the threads, and is neither the first row nor the last one."""
    torch.set_num_threads(2)
    rows = torch.cat([torch.full((20_000,), 7), torch.arange(ROWS), torch.full((20_000,), 7)])
    values = whole_numbers(len(rows), 3, limit=1)
    table, state = torch.zeros(ROWS, 3), torch.zeros(ROWS, 3)
    gradient = sparse(rows, values, ROWS)
    update_(table, [state], gradient, rule="sgd", lr=1.0, momentum=0.5)
    expected = torch.zeros(ROWS, 3).index_add_(0, rows, values)
    assert torch.equal(table, -expected)
    assert torch.equal(state, expected)


def test_a_hot_row_and_any_number_of_threads(device: str) -> None:
    """100,000 lookups of one row: the same bits for any number of threads."""
    rows, upstream = (
        torch.full((100_000, 1), 7, device=device),
        torch.randn(100_000, 3, device=device),
    )
    for rule in RULES:
        tables = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            tables.append(torch.ones(ROWS, 3, device=device))
            call(rule, tables[-1], upstream, rows)
        assert all(torch.equal(table, tables[0]) for table in tables)


def everything(weight: Tensor, state: list[Tensor], grad: Tensor) -> list[Tensor]:
    return [weight, *state, *([grad._values()] if grad.is_sparse else [grad])]


def table(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


def entries(
    *rows: int, width: int = 3, size: int = 5, dtype: torch.dtype = torch.float32
) -> Tensor:
    return sparse(torch.tensor(rows), torch.ones(len(rows), width, dtype=dtype), size)


MOMENTUM = {"momentum": 0.5}
ADAM = {"rule": "adam", "beta1": 0.5, "beta2": 0.5}
BAGS = {"indices": torch.tensor([[0, 1], [2, 3]])}
BAD: dict[str, tuple[str, list[Tensor], Tensor, dict[str, Any]]] = {
    "row too large": (r"index 7 .*\[0, 5\)", [], entries(1, 7), {}),
    "row negative": (r"index -1 .*\[0, 5\)", [], entries(-1, 2), {}),
    "row far away": (f"index {2**40} ", [table(5, 3)], entries(0, 2**40), MOMENTUM),
    "index too large": (r"5 .*\[0, 5\)", [], table(1, 3), {"indices": torch.tensor([[0, 5]])}),
    "index negative": (r"-9 .*\[0, 5\)", [], table(2, 3), {"indices": torch.tensor([[0], [-9]])}),
    "index of floats": ("Float", [], table(2, 3), {"indices": torch.ones(2, 1)}),
    "indices in 3-D": ("1D or 2D", [], table(2, 3), {"indices": torch.ones(2, 1, 1).long()}),
    "padding": ("5", [], table(2, 3), BAGS | {"padding_idx": 5}),
    "offsets that decrease": (
        "decrease",
        [],
        table(3, 3),
        {"indices": torch.tensor([0, 1, 2]), "offsets": torch.tensor([0, 3, 1])},
    ),
    "offsets too large": (
        "9",
        [],
        table(2, 3),
        {"indices": torch.tensor([0, 1, 2]), "offsets": torch.tensor([0, 9])},
    ),
    "offsets alone": ("indices", [], table(5, 3), {"offsets": torch.tensor([0])}),
    "no offsets": ("offsets", [], table(3, 3), {"indices": torch.tensor([0, 1, 2])}),
    "too few bags": (r"\[3, 3\]", [], table(3, 3), BAGS),
    "no positions": ("positions", [], table(2, 3), BAGS | {"bag_mode": 2}),
    "factors": ("per_sample_weights", [], table(2, 3), BAGS | {"per_sample_weights": table(2, 3)}),
    "rule": ("but got lion", [], table(5, 3), {"rule": "lion"}),
    "rounding": ("but got up", [], table(5, 3), {"rounding": "up"}),
    "one state too many": ("got 1", [table(5, 3)], table(5, 3), {}),
    "one state too few": ("got 1", [table(5, 3)], table(5, 3), ADAM),
    "no largest v": ("got 2", [table(5, 3)] * 2, table(5, 3), ADAM | {"amsgrad": True}),
    "state of 16 bits": ("Half", [table(5, 3, dtype=torch.half)], table(5, 3), MOMENTUM),
    "state too small": (r"\[4, 3\]", [table(4, 3)], entries(0), MOMENTUM),
    "state of a row": (r"\[5, 3\]", [table(5, 3)], entries(0), {"rule": "row_wise_adagrad"}),
    "overlapping state": ("memory", [table(1, 3).expand(5, 3)], entries(0), MOMENTUM),
    "split of float32": ("Float", [torch.zeros(5, 3).short()], table(5, 3), {"rounding": "split"}),
    "width": (r"\[5, 4\]", [], table(5, 4), {}),
    "height": (r"\[6, 3\]", [], entries(0, size=6), {}),
    "double gradient": ("Double", [], table(5, 3, dtype=torch.double), {}),
    "double entries": ("Double", [], entries(0, dtype=torch.double), {}),
    "entries are elements": ("sparse_dim 2", [], torch.eye(5, 3).to_sparse(), {}),
}
IN_VALUES = ("row ", "index too", "index neg", "offsets that", "offsets too")  # a kernel finds it


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("threads", [1, 2])
def test_bad_input_changes_nothing(name: str, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    message, state, grad, options = BAD[name]
    weight = torch.full((5, 3), 9.0, device=device)
    tensors = everything(weight, state, grad)
    before = [(tensor.clone(), tensor._version) for tensor in tensors]
    if simulator.running() and name.startswith(IN_VALUES):
        message = r"myemb::\w+: (index|offsets)"
    with pytest.raises((IndexError, RuntimeError, ValueError, TypeError), match=message):
        update_(weight, state, grad, **{"rule": "sgd", "lr": 0.5} | options)
    for tensor, (values, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, values)
        assert tensor._version == version


def test_bad_tables(device: str) -> None:
    for weight, message in (
        (torch.ones(1, 3).expand(5, 3), "memory"),
        (torch.ones(5, 3, dtype=torch.int64), "Long"),
        (torch.ones(5, 3, dtype=torch.complex64), "ComplexFloat"),
        (torch.ones(5), "dimension 1"),
    ):
        with pytest.raises(RuntimeError, match=message):
            update_(weight, [], torch.ones(weight.shape, dtype=weight.dtype), rule="sgd", lr=0.5)
        assert (weight == 1).all()


@pytest.mark.parametrize("size", [20_000, 3])
@pytest.mark.parametrize("place", [0, -1])
def test_a_bad_row_among_many(size: int, place: int, device: str) -> None:
    torch.set_num_threads(2)
    weight, state = torch.ones(500, 33, device=device), torch.zeros(500, 33, device=device)
    rows = torch.randint(500, (size,), device=device)
    rows[place] = 500
    for where in (
        (sparse(rows, torch.ones(size, 33), 500),),
        (torch.ones(size, 33), rows.view(-1, 1)),
    ):
        with simulator.refused(
            IndexError, r"index 500 at position \d+ is not in \[0, 500\)", "index out of range"
        ):
            update_(weight, [state], *where, rule="sgd", lr=0.5, momentum=0.5)
        assert (weight == 1).all()
        assert (state == 0).all()


@pytest.mark.parametrize("is_sparse", [False, True])
def test_versions(is_sparse: bool, device: str) -> None:
    weight, state = torch.ones(5, 3, device=device), [torch.zeros(5, 3, device=device)] * 1
    grad = entries(1, 1) if is_sparse else torch.ones(5, 3, device=device)
    versions = [tensor._version for tensor in everything(weight, state, grad)]
    update_(weight, state, grad, rule="adagrad", lr=0.5)
    after = [tensor._version for tensor in everything(weight, state, grad)]
    assert after == [versions[0] + 1, versions[1] + 1, versions[2]]


def test_leaves_that_require_grad_are_refused(device: str) -> None:
    weight, state = Parameter(torch.ones(5, 3, device=device)), torch.ones(5, 3, device=device)
    for is_sparse in (False, True):
        grad = entries(1, 1) if is_sparse else torch.ones(5, 3, device=device)
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used"):
            update_(weight, [state], grad, rule="adagrad", lr=0.5)
        assert (weight == 1).all()
        assert (state == 1).all()
        assert weight._version == state._version == 0
    with torch.no_grad():
        update_(weight, [state], torch.ones(5, 3, device=device), rule="adagrad", lr=0.5)
    assert (weight < 1).all()


def test_tensors_saved_for_backward_are_protected(device: str) -> None:
    inputs = [torch.ones(5, 3, device=device, requires_grad=True) for _ in range(2)]
    outputs = [tensor.square() for tensor in inputs]
    weight, state = (tensor.detach() for tensor in inputs)
    update_(weight, [state], entries(1), rule="adagrad", lr=0.5)
    for output in outputs:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.backward(torch.ones_like(output))


def test_a_state_that_requires_grad_is_refused(device: str) -> None:
    """It is written to as the weight is."""
    weight, state = torch.ones(5, 3, device=device), Parameter(torch.ones(5, 3, device=device))
    with pytest.raises(RuntimeError, match="requires grad"):
        update_(weight, [state], torch.ones(5, 3, device=device), rule="adagrad", lr=0.5)
    assert (weight == 1).all()
    assert (state == 1).all()
