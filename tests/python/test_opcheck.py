"""torch.library.opcheck on every operator: schema, autograd registration, fake tensors, AOT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

ops = torch.ops.myemb
ROWS, WIDTH = 7, 4


def lookups(device: str, *shape: int) -> Tensor:
    return torch.randint(ROWS, shape, device=device)


def values(device: str, *shape: int, requires_grad: bool = False) -> Tensor:
    return torch.randn(shape, device=device, requires_grad=requires_grad)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("options", [(-1, False, False), (2, True, False), (2, False, True)])
def test_embedding(
    requires_grad: bool, shape: tuple[int, ...], options: tuple[Any, ...], device: str
) -> None:
    weight = values(device, ROWS, WIDTH, requires_grad=requires_grad)
    rows = lookups(device, *shape)
    if options[2] and requires_grad and options[0] >= 0:
        # How many entries padding leaves is known only when it runs: nothing for a graph.
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        opcheck(ops.embedding.default, (weight, rows, *options), test_utils=tests)
        options = (-1, *options[1:])
    opcheck(ops.embedding.default, (weight, rows, *options))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("options", [(-1, False), (3, True)])
def test_embedding_dense_backward(
    requires_grad: bool, options: tuple[Any, ...], device: str
) -> None:
    grad_output = values(device, 2, 3, WIDTH, requires_grad=requires_grad)
    opcheck(
        ops.embedding_dense_backward.default, (grad_output, lookups(device, 2, 3), ROWS, *options)
    )


def test_coalesce(device: str) -> None:
    sparse = torch.sparse_coo_tensor(
        lookups(device, 1, 9), values(device, 9, WIDTH), (ROWS, WIDTH), check_invariants=True
    )
    # The other checks look at the storages of the arguments, and sparse tensors have none.
    opcheck(ops.coalesce.default, (sparse,), test_utils="test_autograd_registration")


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
def test_embedding_renorm_(norm_type: float, device: str) -> None:
    weight = values(device, ROWS, WIDTH)
    opcheck(ops.embedding_renorm_.default, (weight, lookups(device, 2, 3), 0.5, norm_type))


def bag_lookups(form: str, device: str) -> tuple[Tensor, Tensor | None, bool, int]:
    """Indices, offsets, include_last_offset and how many bags they make."""
    if form == "matrix":
        return lookups(device, 3, 2), None, False, 3
    starts = [0, 2, 2, 6] if form == "last" else [0, 2, 2]
    return lookups(device, 6), torch.tensor(starts, device=device), form == "last", 3


forms = pytest.mark.parametrize("form", ["matrix", "offsets", "last"])
paddings = pytest.mark.parametrize("padding_idx", [None, 1])


@forms
@paddings
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_embedding_bag(
    form: str,
    padding_idx: int | None,
    mode: int,
    weighted: bool,
    requires_grad: bool,
    device: str,
) -> None:
    rows, offsets, last, _ = bag_lookups(form, device)
    weight = values(device, ROWS, WIDTH, requires_grad=requires_grad)
    factors = values(device, *rows.shape, requires_grad=requires_grad) if weighted else None
    frequency = mode != 2 and weighted
    arguments = (weight, rows, offsets, frequency, mode, False, factors, last, padding_idx)
    opcheck(ops.embedding_bag.default, arguments)


@forms
@pytest.mark.parametrize("mode", [0, 1])
def test_embedding_bag_with_a_sparse_gradient(form: str, mode: int, device: str) -> None:
    rows, offsets, last, _ = bag_lookups(form, device)
    weight = values(device, ROWS, WIDTH, requires_grad=True)
    opcheck(ops.embedding_bag.default, (weight, rows, offsets, False, mode, True, None, last, None))


@forms
@paddings
@pytest.mark.parametrize("requires_grad", [False, True])
def test_embedding_bag_max(
    form: str, padding_idx: int | None, requires_grad: bool, device: str
) -> None:
    rows, offsets, last, _ = bag_lookups(form, device)
    weight = values(device, ROWS, WIDTH, requires_grad=requires_grad)
    factors = values(device, *rows.shape)
    opcheck(ops.embedding_bag_max.default, (weight, rows, offsets, factors, last, padding_idx))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_checked_offsets(dtype: torch.dtype, include_last_offset: bool, device: str) -> None:
    offsets = torch.tensor([[0, 2, 6], [0, 0, 6]], dtype=dtype, device=device)
    for each in (offsets, offsets[0]):
        opcheck(ops.checked_offsets.default, (each, 6, include_last_offset))


@forms
@paddings
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_backward_operators_of_bags(
    form: str, padding_idx: int | None, mode: int, requires_grad: bool, device: str
) -> None:
    rows, offsets, last, bags = bag_lookups(form, device)
    weight = values(device, ROWS, WIDTH)
    factors = values(device, *rows.shape, requires_grad=requires_grad)
    positions = None
    if mode == 2:
        maxima = ops.embedding_bag_max(weight, rows, offsets, factors.detach(), last, padding_idx)
        positions = maxima[1]
    grad_output = values(device, bags, WIDTH, requires_grad=requires_grad)
    frequency = mode == 1
    common = (last, padding_idx)
    opcheck(
        ops.embedding_bag_dense_backward.default,
        (grad_output, rows, offsets, positions, ROWS, frequency, mode, factors, *common),
    )
    opcheck(
        ops.embedding_bag_per_sample_weights_backward.default,
        (
            grad_output,
            weight.requires_grad_(requires_grad),
            rows,
            offsets,
            positions,
            mode,
            *common,
        ),
    )
    if mode != 2:
        opcheck(
            ops.embedding_bag_sparse_backward.default,
            (grad_output, rows, offsets, ROWS, frequency, mode, factors, *common),
        )


UPDATES: dict[str, tuple[int, dict[str, Any]]] = {  # the number of states, and the options
    "sgd": (0, {}),
    "sgd momentum": (1, {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
    "adagrad": (1, {"eps": 0.5, "maximize": True}),
    "row_wise_adagrad": (1, {"eps": 0.5}),
    "adam": (2, {"beta1": 0.5, "beta2": 0.5, "shrink": 0.1}),
    "adam amsgrad": (3, {"beta1": 0.5, "beta2": 0.5, "eps": 0.5, "amsgrad": True}),
}


@pytest.mark.devices("cpu", "cudasim", why="never tried on a GPU")
@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize(
    "mode, rounding", [(None, "nearest"), (0, "stochastic"), (1, "split"), (2, "nearest")]
)
def test_embedding_update_(name: str, mode: int | None, rounding: str, device: str) -> None:
    number, options = UPDATES[name]
    rule = name.split()[0]
    shape = (ROWS,) if rule == "row_wise_adagrad" else (ROWS, WIDTH)
    dtype = torch.float32 if rounding == "nearest" else torch.bfloat16
    weight = values(device, ROWS, WIDTH).to(dtype)
    state = [values(device, *shape).abs() for _ in range(number)]
    if rounding == "split":
        state.append(torch.zeros(ROWS, WIDTH, dtype=torch.int16, device=device))
    options = options | {"rule": rule, "lr": 0.5, "rounding": rounding, "seed": 3, "step": 4}
    if mode is None:
        opcheck(
            ops.embedding_update_.default,
            (weight, state, values(device, ROWS, WIDTH).to(dtype)),
            options,
        )
        return
    rows, offsets, last, bags = bag_lookups("matrix" if mode == 0 else "last", device)
    positions = ops.embedding_bag_max(weight, rows, offsets, None, last)[1] if mode == 2 else None
    factors = None if mode == 2 else values(device, *rows.shape).to(dtype)
    grad = values(device, bags, WIDTH).to(dtype)
    where = (rows, offsets, positions, factors, mode == 1, mode, last, 1)
    opcheck(ops.embedding_update_.default, (weight, state, grad, *where), options)


@pytest.mark.devices("cpu", "cudasim", why="never tried on a GPU")
def test_embedding_update_by_a_sparse_gradient(device: str) -> None:
    sparse = torch.sparse_coo_tensor(
        lookups(device, 1, 9), values(device, 9, WIDTH), (ROWS, WIDTH), check_invariants=True
    )
    opcheck(
        ops.embedding_update_.default,
        (values(device, ROWS, WIDTH), [], sparse),
        {"rule": "sgd", "lr": 0.5},
        test_utils="test_autograd_registration",  # the others want storages
    )


def tables_call(device: str, requires_grad: bool) -> tuple[list[Tensor], Tensor, Tensor]:
    weights = [values(device, ROWS, width, requires_grad=requires_grad) for width in (WIDTH, 2, 3)]
    starts = torch.tensor([0, 2, 2, 5, 6, 6, 8, 9, 11], device=device)
    return weights, lookups(device, 11), starts


FEATURES, MODES = [0, 1, 2, 0], [0, 1, 2]  # of two bags each


@pytest.mark.parametrize("modes", [None, [1, 0, 1], MODES])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_embedding_bag_tables(
    modes: list[int] | None, weighted: bool, requires_grad: bool, device: str
) -> None:
    weights, rows, starts = tables_call(device, requires_grad)
    factors = values(device, 11, requires_grad=requires_grad) if weighted else None
    arguments = (weights, rows, starts, FEATURES, modes, factors, [-1, 1, 2])
    opcheck(ops.embedding_bag_tables.default, arguments)
    opcheck(ops.embedding_bag_tables_max.default, arguments)


def test_embedding_bag_tables_with_a_sparse_gradient(device: str) -> None:
    weights, rows, starts = tables_call(device, requires_grad=True)
    arguments = (weights, rows, starts, FEATURES, None, None, None, [1])
    # How many entries a gradient has is known only when it runs: nothing for a graph.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(ops.embedding_bag_tables.default, arguments, test_utils=tests)


@pytest.mark.parametrize("modes", [None, [1, 0, 1], MODES])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_backward_operators_of_tables(
    modes: list[int] | None, requires_grad: bool, device: str
) -> None:
    weights, rows, starts = tables_call(device, requires_grad)
    factors = values(device, 11, requires_grad=requires_grad)
    positions = None
    if modes == MODES:
        positions = ops.embedding_bag_tables_max(weights, rows, starts, FEATURES, modes)[1]
    grad_output = values(device, 2, 2 * WIDTH + 5, requires_grad=requires_grad)
    shapes = ([ROWS] * 3, [WIDTH, 2, 3], [6] * 3)  # at::kFloat
    opcheck(
        ops.embedding_bag_tables_backward.default,
        (grad_output, rows, starts, positions, *shapes, FEATURES, modes, factors, None, [], [2, 0]),
    )
    opcheck(
        ops.embedding_bag_tables_per_sample_weights_backward.default,
        (grad_output, weights, rows, starts, positions, FEATURES, modes, [-1, 1, 2]),
    )


def test_every_operator_is_checked_here() -> None:
    """A new operator needs a test of its own in this file."""
    checked = {
        "embedding",
        "embedding_dense_backward",
        "embedding_renorm_",
        "embedding_bag",
        "embedding_bag_max",
        "checked_offsets",
        "embedding_bag_dense_backward",
        "embedding_bag_sparse_backward",
        "embedding_bag_per_sample_weights_backward",
        "coalesce",
        "embedding_update_",
        "embedding_bag_tables",
        "embedding_bag_tables_max",
        "embedding_bag_tables_backward",
        "embedding_bag_tables_per_sample_weights_backward",
        "embedding_bag_tables_update_",  # in test_fused_tables.py
    }
    registered = {
        name.removeprefix("myemb::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("myemb::")
    }
    assert registered == checked
