"""What a kind of work is: how a library does it, how the limit does it, what has to move."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from inputs import Inputs
from torch import Tensor

Call = Callable[[], Any]
Limits = dict[str, Callable[[Any], Any]]  # by engine: each takes how a loop is to be run


@dataclasses.dataclass(frozen=True)
class Library:
    """PyTorch, or what has its signatures.

    Attributes:
        functional, nn: The modules of that name.
        coalesce: Joins the entries of a sparse gradient.
        optim: The module with the optimizers.
        huge_pages: Moves a table to huge pages, or ``None`` if it cannot.
        fuse: Lets an optimizer update tables during backward, or ``None``.
    """

    functional: Any
    nn: Any
    coalesce: Callable[[Tensor], Tensor]
    optim: Any
    huge_pages: Callable[[Tensor], object] | None = None
    fuse: Callable[[Any, list[Tensor]], object] | None = None


TORCH = Library(torch.nn.functional, torch.nn, torch.Tensor.coalesce, torch.optim)


class Work(ABC):
    """One kind of work; subclasses are frozen dataclasses of its options.

    Attributes:
        checked_call: Of an engine's calls the one whose result is compared with PyTorch's.
    """

    checked_call: ClassVar[int] = 1

    @abstractmethod
    def call(self, inputs: Inputs, library: Library) -> Call:
        """Returns the call that is timed. What it returns is compared with PyTorch's."""

    def formula(self, inputs: Inputs) -> Tensor | None:
        """Returns the right result where PyTorch has none, which does similar work then."""
        return None

    def rivals(self) -> dict[str, Work]:
        """Returns other ways to do the same with PyTorch, by engine."""
        return {}

    @abstractmethod
    def moved(self, inputs: Inputs) -> int:
        """Returns the bytes that have to be moved at least."""

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """Returns the same by hand-written loops, for engines ``limit``, ``lim+huge``..."""
        return {}

    def has_fbgemm(self, inputs: Inputs) -> bool:
        """Says whether FBGEMM can do it on a CPU."""
        return False

    def result(self, returned: Any, inputs: Inputs) -> Tensor:
        """Returns the tensor to compare of what the call has returned."""
        assert isinstance(returned, Tensor)
        return returned


@dataclasses.dataclass
class Groups:
    """The lookups of each row, sorted by the limit's own radix sort into memory that is reused."""

    inputs: Inputs
    indices: Tensor
    loops: Any

    def __post_init__(self) -> None:
        count = self.indices.numel()
        self.rows, self.positions = (torch.empty(count, dtype=torch.int64) for _ in range(2))
        self.starts = torch.empty(count + 1, dtype=torch.int64)
        self.scratch = torch.empty(4 * count, dtype=torch.int32)
        self.count = self.sort(self.loops.Tuning(0, False, 1))

    def sort(self, tuning: Any) -> int:
        """Sorts again, and returns the number of distinct rows."""
        number: int = self.loops.group(
            self.indices,
            self.inputs.shape.rows,
            self.rows,
            self.starts,
            self.positions,
            self.scratch,
            tuning,
        )
        return number

    @property
    def distinct(self) -> Tensor:
        """The rows that are looked up."""
        return self.rows[: self.count]

    @property
    def borders(self) -> Tensor:
        """Where the lookups of each begin, and the end."""
        return self.starts[: self.count + 1]


def factors_of_accumulator(factors: Tensor) -> Tensor:
    """Returns weights in the type in which the limit multiplies."""
    return factors if factors.dtype == torch.float64 else factors.float()
