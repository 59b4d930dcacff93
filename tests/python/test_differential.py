"""Random calls, good and bad: PyTorch's results are ours, and so are its errors.

A call that PyTorch accepts must give its output and gradients, computed in float64. A call that it
refuses must be refused with the same class and with PyTorch's text in ours. ``ACCEPTED``,
``REFUSED`` and ``REWORDED`` list every departure from that; one that they do not describe fails.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
import torch.nn.functional as F
from calls import Call, bad_index, bad_offsets, calls, float32_weights
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inputs import FLOAT_DTYPES, INDEX_DTYPES, assert_near
from torch import Tensor

from myemb.functional import embedding, embedding_bag, embedding_renorm_


@dataclasses.dataclass
class Outcome:
    """A result, or what was raised instead."""

    error: Exception | None = None
    output: Tensor | None = None
    gradients: tuple[Tensor, ...] = ()
    weight: Tensor | None = None


def run(function: Callable[..., Tensor], arguments: dict[str, Any]) -> Outcome:
    weight = arguments["weight"]
    before = weight.clone()
    leaves = [
        each
        for each in (weight, arguments.get("per_sample_weights"))
        if each is not None and each.dtype in FLOAT_DTYPES
    ]
    for leaf in leaves:
        leaf.requires_grad_()
    try:
        output = function(**arguments)
        upstream = ((torch.arange(output.numel()) * 3) % 11 - 5).view(output.shape).to(output.dtype)
        gradients = (
            torch.autograd.grad(output, leaves, upstream, materialize_grads=True)
            if output.requires_grad
            else ()
        )
    except Exception as error:  # any class: it is compared
        return Outcome(
            error=error, weight=weight.detach() if bool((weight != before).any()) else None
        )
    dense = tuple(each.to_dense() for each in gradients)
    return Outcome(output=output.detach(), gradients=dense, weight=weight.detach())


def upcast(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same call in float64 and with int64 indices."""
    result = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            result[name] = value.detach().double()
        elif name in ("input", "offsets") and value is not None:
            result[name] = value.long()
    return result


def renormalised(call: Call) -> Tensor:
    """The table after max_norm, by PyTorch."""
    arguments = upcast(call.tensors())
    table: Tensor = arguments["weight"]
    if call.max_norm is None or call.width == 0:
        return table
    return torch.embedding_renorm_(table, arguments["input"], call.max_norm, call.norm_type)


def expected(call: Call, table: Tensor) -> Outcome:
    """PyTorch in float64, or the reference where PyTorch has no such thing; without max_norm."""
    arguments = upcast(call.tensors() | {"weight": table, "max_norm": None})
    if not call.bag:
        return run(F.embedding, arguments | {"sparse": False})
    names = ("mode", "per_sample_weights", "scale_grad_by_freq", "padding_idx")

    def bags(input: Tensor, weight: Tensor, offsets: Tensor | None, **options: Any) -> Tensor:
        return reference.bag(
            weight,
            input,
            offsets,
            include_last_offset=call.include_last_offset,
            **{name: options[name] for name in names},
        )

    return run(bags, arguments)


# ---- where myemb departs from PyTorch ------------------------------------------------------------


REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError)

NO_INDICES = (torch.int8, torch.bool)

# Refused by PyTorch, computed here.
ACCEPTED: dict[str, Callable[[Call], bool]] = {
    "uint8 and int16 indices": lambda call: (
        call.index_dtype in (torch.uint8, torch.int16)
        or (call.bag and call.offset_dtype in (torch.uint8, torch.int16))
    ),
    "weights with mean and max": lambda call: call.weights is not None and call.mode != "sum",
    "float32 weights of a 16-bit table": float32_weights,
    "frequencies with a sparse gradient": lambda call: call.sparse and call.scale_grad_by_freq,
    "a scalar index with padding and a sparse gradient": lambda call: (
        not call.bag and call.shape == () and call.sparse and call.padding_idx is not None
    ),
    "the largest entry of a row without columns": lambda call: (
        call.max_norm is not None and call.width == 0
    ),
    "rows of length 0": lambda call: call.bag and len(call.shape) == 2 and call.shape[1] == 0,
}

# Computed by PyTorch, refused here.
REFUSED: dict[str, Callable[[Call], bool]] = {
    "int8 and bool indices that offsets of another dtype promote": lambda call: (
        call.bag
        and (call.index_dtype in NO_INDICES or call.offset_dtype in NO_INDICES)
        and len(call.shape) == 1
    ),
    "a table that has no norm, even if no row is looked up": lambda call: (
        call.max_norm is not None and call.dtype in (torch.int64, torch.bool) and not call.lookups
    ),
}

# Refused by both, with other words; the text that ours must contain.
REWORDED: dict[str, tuple[Callable[[Call], bool], str]] = {
    "lookups have one text for a bad index, with max_norm and without": (
        lambda call: bad_index(call) and (not call.bag or call.max_norm is not None),
        "index out of range in self",
    ),
    "offsets of a wrong dtype are named": (
        lambda call: call.bag and call.offset_dtype not in INDEX_DTYPES,
        "argument #1 'offsets'",
    ),
    "bags have one text for a bad index": (
        lambda call: call.bag and bad_index(call),
        "of input takes value|is not in|out of range",
    ),
}


def accepted(call: Call) -> bool:
    return any(applies(call) for applies in ACCEPTED.values())


def refused(call: Call) -> bool:
    return any(applies(call) for applies in REFUSED.values())


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def compare_errors(call: Call, ours: Outcome, theirs: Exception) -> None:
    assert ours.error is not None, f"PyTorch refuses this: {theirs!r}"
    assert ours.weight is None, "the table was changed before the error"
    assert isinstance(ours.error, REFUSALS)
    if call.faults > 1:
        return  # which of two faults is named first is nobody's contract
    for applies, text in REWORDED.values():
        if applies(call) and re.search(text, str(ours.error)):
            return
    assert type(ours.error) is type(theirs), (ours.error, theirs)
    assert first_line(theirs) in str(ours.error), (ours.error, theirs)


def compare_results(call: Call, ours: Outcome) -> None:
    assert ours.error is None, ours.error
    assert ours.output is not None
    assert ours.weight is not None
    table = renormalised(call)
    theirs = expected(call, ours.weight)
    assert theirs.error is None, theirs.error
    assert theirs.output is not None
    if call.dtype not in FLOAT_DTYPES:
        torch.testing.assert_close(ours.weight, table)
        assert torch.equal(ours.output, theirs.output)
        return
    terms, scale = max(len(call.lookups), call.width), 250.0
    assert_near(ours.weight, table, terms, scale=50.0)
    assert_near(ours.output, theirs.output, terms, scale)
    for gradient, reference_gradient in zip(ours.gradients, theirs.gradients, strict=True):
        assert_near(gradient, reference_gradient, terms, scale)


def check(call: Call) -> None:
    ours = run(embedding_bag if call.bag else embedding, call.tensors())
    # PyTorch crashes or reads elsewhere on such offsets (test_safety.py): it is not asked.
    if bad_offsets(call):
        assert isinstance(ours.error, REFUSALS), "bad offsets were accepted"
        assert ours.weight is None
        return
    theirs = run(F.embedding_bag if call.bag else F.embedding, call.tensors())
    if theirs.error is None and refused(call) and ours.error is not None:
        assert isinstance(ours.error, REFUSALS)
        assert ours.weight is None
    elif theirs.error is None or (accepted(call) and ours.error is None):
        compare_results(call, ours)
    elif accepted(call):
        # Two reasons at once: ours is then the one that is left without the departure.
        assert ours.weight is None
        assert isinstance(ours.error, REFUSALS)
        assert not well_formed(call), ours.error
    else:
        compare_errors(call, ours, theirs.error)


def well_formed(call: Call) -> bool:
    """Nothing is wrong with the call but what a departure allows."""
    return (
        not bad_index(call)
        and call.weight_dims == 2
        and call.weights_size is None
        and call.dtype in FLOAT_DTYPES
        and call.index_dtype in INDEX_DTYPES
        and call.offset_dtype in INDEX_DTYPES
        and (call.weights in (None, call.dtype) or float32_weights(call))
        and call.mode in ("sum", "mean")
        and (call.offsets is not None) == (len(call.shape) == 1)
        and len(call.shape) in (1, 2)
        and (call.padding_idx is None or -call.rows <= call.padding_idx < call.rows)
    )


@settings(max_examples=600)
@given(calls(bag=False))
@example(Call(False, [], (2, 0)))
@example(Call(False, [5], (1,), max_norm=60.0))
@example(Call(False, [-1], (1,), max_norm=60.0))
def test_embedding(call: Call) -> None:
    check(call)


@pytest.mark.filterwarnings("ignore:Argument order of nn.functional.embedding_bag")
@settings(max_examples=1500)
@given(calls(bag=True))
@example(Call(True, [], (3, 0)))
@example(Call(True, [1, 2], (2,), offsets=[0], weights=torch.float32, mode="mean", max_norm=60.0))
@example(Call(True, [1, 7], (2,), offsets=[0], max_norm=60.0))
@example(Call(True, [1, 2], (2,), offsets=[0, 2, 1], max_norm=60.0))
def test_embedding_bag(call: Call) -> None:
    check(call)


@settings(max_examples=200)
@given(
    st.integers(1, 6),
    st.integers(0, 20),
    st.lists(st.integers(-1, 6), max_size=8),
    st.sampled_from((0.0, 0.5, 1.0, 2.0, 3.0, float("inf"))),
    st.sampled_from((0.5, 60.0, 1e4)),
    st.sampled_from(FLOAT_DTYPES),
)
def test_embedding_renorm(
    rows: int, width: int, lookups: list[int], norm_type: float, max_norm: float, dtype: torch.dtype
) -> None:
    weight = ((torch.arange(rows * width) * 37) % 101 - 50).view(rows, width).to(dtype)
    indices = torch.tensor(lookups, dtype=torch.int64)
    table = weight.clone()
    if any(not 0 <= index < rows for index in lookups):
        try:
            embedding_renorm_(table, indices, max_norm, norm_type)
        except IndexError as error:
            assert "out of range" in str(error)
            assert torch.equal(table, weight)
            return
        raise AssertionError("a bad index was accepted")
    embedding_renorm_(table, indices, max_norm, norm_type)
    expected_table = torch.embedding_renorm_(weight.double(), indices, max_norm, norm_type)
    assert_near(table, expected_table, terms=max(width, 1), scale=50.0)
