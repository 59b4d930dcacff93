"""One call and what has to be true of it afterwards."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

# A ValueError, a NotImplementedError and so on; anything else is a bug of the library.
REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError, TypeError, AttributeError)


class Finding(Exception):
    """The library did what it must not do."""


@dataclasses.dataclass
class Call:
    """A call that was drawn, and how it is judged.

    Attributes:
        name: What is called.
        arguments: For the report.
        run: Makes the call; returns tensors in a fixed order.
        expected: Their float64 counterparts by somebody else, with the size of what was added up
            and how many terms; asked when nothing is wrong. It may raise Finding itself.
        theirs: PyTorch's call, on copies of the arguments: does it refuse it, too? None where
            PyTorch has no such call, or would crash.
        tensors: Everything that the call could change.
        written: The names of those that it may change, when it succeeds.
        faults: What is wrong with it: with one of these it has to be refused.
        departures: Why PyTorch may accept what is refused here, and the other way round.
    """

    name: str
    arguments: dict[str, Any]
    run: Callable[[], Sequence[Tensor | None]]
    expected: Callable[[], Sequence[Expected | None]]
    tensors: dict[str, Tensor]
    theirs: Callable[[], Any] | None = None
    written: tuple[str, ...] = ()
    faults: list[str] = dataclasses.field(default_factory=list)
    departures: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Expected:
    """A result in float64 (or integers, which have to be equal).

    Attributes:
        terms: How many numbers were added up.
        scale: How large they were.
        dtype: What the result has to have; not checked if None.
        rounding: What it was rounded to before; by default what it has.
        rounded_terms: How many of what was added up had been rounded to that, too.
    """

    values: Tensor
    terms: int = 1
    scale: float = 1.0
    dtype: torch.dtype | None = None
    rounding: torch.dtype | None = None
    rounded_terms: int = 0


class Snapshot:
    """Every byte of the memory under some tensors, and their versions."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = _parts(tensors)
        self.bytes = {name: _bytes(tensor).clone() for name, tensor in self.tensors.items()}
        self.versions = {name: tensor._version for name, tensor in self.tensors.items()}

    def check_unchanged(self, written: Sequence[str] = ()) -> None:
        """Raises Finding if anything is different, apart from the elements of ``written``."""
        for name, tensor in self.tensors.items():
            before, same_version = self.bytes[name], tensor._version == self.versions[name]
            if name not in written and not same_version:
                raise Finding(f"{name} has another version")
            if name in written:
                if same_version and not torch.equal(_bytes(tensor), before):
                    raise Finding(f"{name} was changed, and its version was not")
                before = _with_elements_of(before, tensor)
            if not torch.equal(_bytes(tensor), before):
                where = "around " if name in written else ""
                raise Finding(f"the memory {where}of {name} was changed")


def _parts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The strided tensors that hold the data of some tensors."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.device.type == "meta":
            continue
        if tensor.is_sparse:
            found[f"{name}.indices"], found[f"{name}.values"] = tensor._indices(), tensor._values()
        else:
            found[name] = tensor.detach()
    return found


def _bytes(tensor: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def _with_elements_of(before: Tensor, tensor: Tensor) -> Tensor:
    """What the memory is if only the elements of a view have changed."""
    after = before.clone()
    view = torch.empty(0, dtype=tensor.dtype).set_(
        after.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
    )
    view.copy_(tensor)
    return after


def compare(actual: Tensor | None, expected: Expected | None, what: str) -> None:
    """Raises Finding unless they agree but for the rounding of sums and of the result."""
    if expected is None or actual is None:
        if actual is not None and expected is None and bool((actual.to_dense() != 0).any()):
            raise Finding(f"{what}: a value where there should be none")
        if actual is None and expected is not None and bool((expected.values != 0).any()):
            raise Finding(f"{what} is None")
        return
    values, dtype = expected.values, actual.dtype
    rounded = expected.terms if actual.is_sparse else expected.rounded_terms
    if actual.is_sparse:
        actual = actual.double().to_dense()
    if actual.shape != values.shape:
        raise Finding(f"{what} has shape {tuple(actual.shape)} instead of {tuple(values.shape)}")
    if expected.dtype is not None and dtype != expected.dtype:
        raise Finding(f"{what} has dtype {dtype} instead of {expected.dtype}")
    if not dtype.is_floating_point:
        if not torch.equal(actual, values.to(actual.dtype)):
            raise Finding(f"{what}: {actual} instead of {values}")
        return
    dtype = expected.rounding or dtype
    info = torch.finfo(dtype)
    sums = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    got, wanted = actual.detach().double(), values.detach().double()
    slack = 4 * sums * (expected.terms**1.5 + 4) * expected.scale + info.smallest_normal
    allowed = info.eps * (wanted.abs() + rounded * expected.scale) + slack
    same = (got == wanted) | (got.isnan() & wanted.isnan()) | ((got - wanted).abs() <= allowed)
    if not bool(same.all()):
        place = (~same).nonzero()[0].tolist()
        raise Finding(
            f"{what}{place} is {got[tuple(place)]!s} instead of {wanted[tuple(place)]!s} "
            f"(allowed: {allowed[tuple(place)]!s})"
        )


def size_of(*tensors: Tensor | None) -> float:
    """The product of the largest numbers in some tensors: how large a term of a sum can be."""
    result = 1.0
    for tensor in tensors:
        if tensor is not None and tensor.numel():
            finite = tensor.detach().double().nan_to_num(0, 0, 0).abs().max()
            result *= max(1.0, float(finite))
    return result


def check(call: Call, seen: Counter[str], where: AbstractContextManager[Any]) -> None:
    """Makes a call, in a context. Raises Finding, or what the library raises that is no refusal."""
    before = Snapshot(call.tensors)
    error: Exception | None = None
    try:
        with where:
            results = call.run()
    except REFUSALS as refused:
        error = refused
    if error is not None:
        before.check_unchanged()
        if not call.faults:
            raise Finding(f"refused: {error!r}") from error
        seen["refused"] += 1
    else:
        if call.faults:
            raise Finding(f"accepted in spite of: {', '.join(call.faults)}")
        before.check_unchanged(call.written)
        expected = call.expected()
        for i, (actual, wanted) in enumerate(zip(results, expected, strict=True)):
            compare(actual, wanted, f"result {i}")
        seen["computed"] += 1
    for fault in call.faults:
        seen[f"fault: {fault}"] += 1
    if call.theirs is not None:
        agree_with_torch(call, error, seen)


def agree_with_torch(call: Call, error: Exception | None, seen: Counter[str]) -> None:
    assert call.theirs is not None
    theirs: Exception | None = None
    try:
        call.theirs()
    except Exception as refused:  # any: it is PyTorch's
        theirs = refused
    if (theirs is None) == (error is None):
        seen["PyTorch agrees"] += 1
        return
    for departure in call.departures:
        seen[f"departure: {departure}"] += 1
    if not call.departures:
        raise Finding(f"PyTorch: {theirs!r}, here: {error!r}")
