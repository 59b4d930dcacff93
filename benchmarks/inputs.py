"""What a case looks up: the same tensors in every process, whatever torch it has.

Everything is made when it is first asked for, so that a case costs the memory it uses.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 1_000_003  # random numbers that fill a table again and again; prime: no two rows alike
SAMPLE = 1_000_000  # elements of a result that are compared
LEAST_ROWS = 2000  # of the smallest of many tables
STRIDE = 7  # the order of the sizes of many tables; coprime to their number

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a case, and how its lookups are distributed.

    Attributes:
        rows, width: Of the table.
        lookups: How many.
        bags: Into which the lookups are cut; 0 where there are none.
        dtype: Of the table: a key of ``DTYPES``.
        distribution: ``"uniform"``, ``"zipf"`` with an exponent behind it, or ``"one"`` row.
        ragged: Bags of random lengths instead of equal ones.
        longest: Bags of 1 to so many lookups, as often of each length; 0: as the others say.
        tables: So many of mixed sizes and widths instead of one; `Inputs.tables` are theirs.
    """

    rows: int
    width: int
    lookups: int
    bags: int = 0
    dtype: str = "fp32"
    distribution: str = "uniform"
    ragged: bool = False
    longest: int = 0
    tables: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the table."""
        return self.width * DTYPES[self.dtype].itemsize


def lengths_to(longest: int, bags: int) -> NDArray[np.int64]:
    """Returns the lengths of bags, from 1 to the longest."""
    return np.arange(bags, dtype=np.int64) % longest + 1


def table_sizes(shape: Shape) -> list[tuple[int, int]]:
    """Returns rows and width of each table: some narrow, some wide, and of sizes far apart.

    The logarithms of the rows are evenly spread, up to the rows and the width of the shape.
    """
    steps = [t * STRIDE % shape.tables / (shape.tables - 1) for t in range(shape.tables)]
    rows = [round(LEAST_ROWS * (shape.rows / LEAST_ROWS) ** step) for step in steps]
    return [(count, shape.width >> t % 4) for t, count in enumerate(rows)]


class Inputs:
    """The tensors of a shape, the same values on every device."""

    def __init__(
        self, shape: Shape, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.shape = shape
        self.dtype = dtype or DTYPES[shape.dtype]
        self.device = torch.device(device)
        self._random = np.random.default_rng(shape.lookups + shape.width)

    def exact(self) -> Inputs:
        """Returns the same values in float32 if they are stored in 16 bits: for the reference."""
        if self.dtype.itemsize > 2:
            return self
        other = Inputs(self.shape, torch.float32, self.device)
        other.__dict__.update({"indices": self.indices, "offsets": self.offsets})
        return other

    def _moved(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64, copy=False)).to(self.device)

    def _values(self, rows: int, seed: int) -> Tensor:
        size = rows * self.shape.width
        generator = torch.Generator().manual_seed(seed)
        block = torch.randn(min(size, BLOCK), generator=generator)
        block = block.to(self.device, DTYPES[self.shape.dtype]).to(self.dtype)
        values = torch.empty(size, dtype=self.dtype, device=self.device)
        for start in range(0, size, BLOCK):
            values[start : start + BLOCK] = block[: size - start]
        return values.view(rows, self.shape.width)

    @cached_property
    def weight(self) -> Tensor:
        """The table."""
        return self._values(self.shape.rows, seed=1)

    @cached_property
    def indices(self) -> Tensor:
        """The row of each lookup."""
        rows, count = self.shape.rows, self.shape.lookups
        kind = self.shape.distribution
        if kind == "uniform":
            return self._moved(self._random.integers(0, rows, count))
        if kind == "one":
            return torch.full((count,), rows // 2, device=self.device)
        # The inverse of the distribution function of a continuous power law; ranks are then
        # scattered over the table, as popular rows are.
        power = 1 - float(kind.removeprefix("zipf"))
        uniform = self._random.random(count)
        rank = np.floor((uniform * ((rows + 1) ** power - 1) + 1) ** (1 / power)).astype(np.int64)
        return self._moved((rank - 1) * 2_654_435_761 % rows)

    @cached_property
    def offsets(self) -> Tensor:
        """Where bags begin, and behind the last one the number of lookups."""
        bags, count = self.shape.bags or self.shape.lookups, self.shape.lookups
        _ = self.indices  # random numbers are drawn in one order
        if self.shape.longest:
            lengths = self._random.permutation(lengths_to(self.shape.longest, bags))
            return self._moved(np.concatenate([[0], lengths.cumsum()]))
        if self.shape.ragged:
            inner = np.sort(self._random.integers(0, count + 1, bags - 1))
            return self._moved(np.concatenate([[0], inner, [count]]))
        return torch.arange(bags + 1, device=self.device) * (count // bags)

    @cached_property
    def lengths(self) -> Tensor:
        """Lookups of each bag."""
        return self.offsets.diff()

    @cached_property
    def bag_of(self) -> Tensor:
        """The bag of each lookup."""
        bags = torch.arange(len(self.lengths), device=self.device)
        return bags.repeat_interleave(self.lengths)

    @cached_property
    def factors(self) -> Tensor:
        """Per-sample weights, exact in 16 bits."""
        lookups = torch.arange(self.shape.lookups, device=self.device)
        return ((lookups % 61 + 3) / 64).to(self.dtype)

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient of the result: a row for each bag, or for each lookup without bags."""
        return self._values(self.shape.bags or self.shape.lookups, seed=2)

    @cached_property
    def distinct(self) -> Tensor:
        """The rows that are looked up, ascending."""
        distinct: Tensor = self.indices.unique()  # type: ignore[no-untyped-call]
        return distinct

    @cached_property
    def tables(self) -> list[Inputs]:
        """The tensors of each table, and of its bags."""
        return [
            Inputs(
                dataclasses.replace(self.shape, rows=rows, width=width, tables=0),
                self.dtype,
                self.device,
            )
            for rows, width in table_sizes(self.shape)
        ]

    @property
    def table_bytes(self) -> int:
        """Bytes of the table."""
        return self.shape.rows * self.shape.row_bytes


def sample(result: Tensor) -> Tensor:
    """Returns up to about a million elements of a result, in float64, for a comparison."""
    if result.is_sparse:
        result = result.coalesce().values()
    flat = result.detach().flatten()
    return flat[:: max(1, math.ceil(flat.numel() / SAMPLE))].double()
