"""The operators of cuda_model.py: how they are called, and what they have to move."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROWS, BAGS, LENGTH = 20_000, 1_000, 20  # of the table; bags of 0 to 2 * LENGTH lookups
TABLES = 4  # of a call of many
SECTOR = 32
FORWARD, BACKWARD, TWICE = 1.10, 1.25, 1.80  # bytes moved over bytes needed, at most
ISSUE, ISSUE_16_BITS, ISSUE_NARROW = 0.5, 0.75, 1.65  # issue time over memory time, at most
ISSUE_RULE, ISSUE_TWICE = 1.4, 2.4  # times that, for a rule, and for one that adds up twice
# A bit is read of most columns, which takes as many instructions as a value, and those of a few
# columns are not a sector.
MARKED, ISSUE_MARKS = 1.40, 1.9


# ---- what is looked up ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape of input."""

    distribution: str
    width: int
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * self.dtype.itemsize

    @property
    def most_issue_time(self) -> float:
        """The bound of issue time over memory time."""
        if self.row_bytes < 512:
            return ISSUE_NARROW
        return ISSUE if self.dtype == torch.float32 else ISSUE_16_BITS

    def __str__(self) -> str:
        return f"{self.distribution} D={self.width} {str(self.dtype).removeprefix('torch.')}"


class Inputs:
    """The tensors of a case."""

    def __init__(self, case: Case, bags: int = BAGS) -> None:
        random = torch.Generator().manual_seed(case.width)
        lengths = torch.randint(2 * LENGTH + 1, (bags,), generator=random)
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]])
        self.count = int(lengths.sum())
        self.bag_of = torch.arange(bags).repeat_interleave(lengths)
        uniform = torch.rand(self.count, generator=random, dtype=torch.float64)
        if case.distribution == "zipf":
            rank = (ROWS**uniform).long() - 1
            self.indices = torch.randperm(ROWS, generator=random)[rank]
        else:
            self.indices = (ROWS * uniform).long()

        def rows(count: int) -> Tensor:
            return torch.randn(count, case.width, generator=random).to(case.dtype)

        self.weight, self.bag_gradient = rows(ROWS), rows(bags)
        self.row_gradient = rows(self.count)
        self.factors = torch.rand(self.count, generator=random)
        self.positions = torch.empty(0)  # of mode max, filled in by its forward
        # A bit for each column of a lookup: whether it gave the maximum.
        self.marks = torch.empty(self.count, -(-case.width // 32), dtype=torch.int32)
        # The same bags as those of features that read a table each, a part of this one.
        self.tables = list(self.weight.chunk(TABLES))
        feature = self.bag_of // (bags // TABLES)
        self.table_indices = self.indices % (ROWS // TABLES)
        self.table_rows = self.table_indices + feature * (ROWS // TABLES)  # among all
        self.table_offsets = torch.cat([self.offsets, torch.tensor([self.count])])
        self.table_gradient = self.bag_gradient.view(bags // TABLES, -1)
        # Its rows as those of bag_gradient: those of the first bags of all features come first.
        self.table_gradient_rows = self.bag_of % (bags // TABLES) * TABLES + feature
        self.moments = [torch.zeros(ROWS, case.width) for _ in range(2)]
        self.squares = torch.zeros(ROWS)

    @property
    def sort_bytes(self) -> int:
        """Returns what sorting 32-bit row numbers with 32-bit payloads has to move."""
        passes = -(-ROWS.bit_length() // 8)
        return (4 + passes * 2 * 8) * self.count

    @property
    def touched(self) -> Tensor:
        """Returns the rows that are looked up, each once."""
        return self.indices.unique()


def sectors_of_rows(table: Tensor, rows: Tensor) -> int:
    """Returns the bytes of the sectors that these rows of a table lie in."""
    row_bytes = table.size(1) * table.element_size()
    begin = table.data_ptr() % SECTOR + rows * row_bytes
    return int(((begin + row_bytes - 1) // SECTOR - begin // SECTOR + 1).sum()) * SECTOR


def sectors_of_maxima(inputs: Inputs) -> int:
    """Returns the bytes of the gradient's sectors in which a lookup has a maximum, for each."""
    gradient, positions = inputs.bag_gradient, inputs.positions
    sector = torch.arange(gradient.numel()) * gradient.element_size() // SECTOR
    has = positions.flatten() >= 0
    pairs = torch.stack([positions.flatten()[has], sector[has]])
    return int(pairs.unique(dim=1).size(1)) * SECTOR


# ---- operators -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Torch:
    """The same for PyTorch, by reading its source: docs/cuda_evidence.md says where."""

    launches: str
    scratch: Callable[[Inputs], int]


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator, and what it has to move."""

    name: str
    call: Callable[[Inputs], Any]
    kernel: str  # the kernel that reads the rows
    kernel_needs: Callable[[Inputs], int]  # bytes
    others_need: Callable[[Inputs], int]
    bound: float
    torch: Torch
    issue: float = 1.0  # times the case's most_issue_time: what the operator may take, lest it grow


ops = torch.ops.myemb


def find_maxima(inputs: Inputs) -> None:
    """Runs mode max forward, whose positions its backward takes."""
    _, inputs.positions = ops.embedding_bag_max(inputs.weight, inputs.indices, inputs.offsets)


def bag_gradient_rows(inputs: Inputs) -> int:
    """Returns what reading the gradient of its bag for each lookup, in the order of rows, needs."""
    return sectors_of_rows(inputs.bag_gradient, inputs.bag_of)


def table_rows(inputs: Inputs) -> int:
    """Returns what reading its row for each lookup needs."""
    return sectors_of_rows(inputs.weight, inputs.indices)


def touched_rows(inputs: Inputs) -> int:
    """Returns what accessing every row that is looked up once needs."""
    return sectors_of_rows(inputs.weight, inputs.touched)


def noted_bags(inputs: Inputs) -> int:
    """Returns the bytes to write and to read the bag of each lookup."""
    return 2 * 8 * inputs.count


def pairs(inputs: Inputs) -> int:
    """Returns the bytes of the sorted lookups."""
    return 8 * inputs.count


def torch_sort(inputs: Inputs) -> int:
    """PyTorch sorts 64-bit rows with 64-bit positions: three arrays, and as many for CUB."""
    return 6 * 8 * inputs.count


def torch_partials(inputs: Inputs) -> int:
    """PyTorch sums a row's lookups ten by ten into float32 rows, then these."""
    segments = inputs.count // 10 + min(inputs.count, ROWS)
    return torch_sort(inputs) + 4 * segments * inputs.weight.size(1)


def bag_backward(inputs: Inputs, mode: int, positions: Tensor | None = None) -> Tensor:
    """Runs the dense backward of embedding_bag."""
    gradient, indices, offsets = inputs.bag_gradient, inputs.indices, inputs.offsets
    return ops.embedding_bag_dense_backward(
        gradient, indices, offsets, positions, ROWS, False, mode, None, False, None
    )


def update(inputs: Inputs, states: list[Tensor], **options: Any) -> None:
    """Runs a step of an optimizer by the gradient of bags."""
    ops.embedding_update_(
        inputs.weight.clone(),
        states,
        inputs.bag_gradient,
        inputs.indices,
        inputs.offsets,
        lr=1e-3,
        eps=1e-8,
        **options,
    )


def updater(
    name: str,
    call: Callable[[Inputs], Any],
    states: Callable[[Inputs], int],
    bound: float,
    issue: float,
) -> Operator:
    """Returns a rule, which reads and writes the rows that are looked up, and their states."""
    return Operator(
        f"embedding_update_, {name}",
        call,
        "reduce_runs",
        lambda i: bag_gradient_rows(i) + pairs(i) + 2 * touched_rows(i) + 2 * states(i),
        lambda i: i.indices.nbytes + i.offsets.nbytes + i.sort_bytes,
        bound,
        Torch("-", lambda i: 0),
        issue,
    )


SINGLE_OPERATORS = [
    Operator(
        "embedding",
        lambda i: ops.embedding(i.weight, i.indices),
        "copy_rows",
        lambda i: table_rows(i) + i.indices.nbytes + i.row_gradient.nbytes,
        lambda i: 0,
        FORWARD,
        Torch("1", lambda i: 0),
    ),
    Operator(
        "embedding_bag, sum",
        lambda i: ops.embedding_bag(i.weight, i.indices, i.offsets),
        "reduce_segments",
        lambda i: table_rows(i) + i.indices.nbytes + i.offsets.nbytes + i.bag_gradient.nbytes,
        lambda i: 0,
        FORWARD,
        Torch("1", lambda i: i.indices.nbytes + i.offsets.nbytes),
    ),
    Operator(
        "embedding_bag, max",
        find_maxima,
        "reduce_segments",
        lambda i: (
            table_rows(i)
            + i.indices.nbytes
            + i.offsets.nbytes
            + i.bag_gradient.nbytes
            + 8 * i.bag_gradient.numel()
        ),
        lambda i: 0,
        FORWARD,
        Torch("1", lambda i: i.indices.nbytes + i.offsets.nbytes),
    ),
    Operator(
        "embedding_dense_backward",
        lambda i: ops.embedding_dense_backward(i.row_gradient, i.indices, ROWS),
        "reduce_runs",
        lambda i: (
            sectors_of_rows(i.row_gradient, torch.arange(i.count)) + pairs(i) + touched_rows(i)
        ),
        lambda i: i.indices.nbytes + i.sort_bytes,
        BACKWARD,
        Torch("15 to 20", torch_partials),
    ),
    Operator(
        "embedding_bag backward, sum",
        lambda i: bag_backward(i, 0),
        "reduce_runs",
        lambda i: bag_gradient_rows(i) + pairs(i) + touched_rows(i),
        lambda i: i.indices.nbytes + i.offsets.nbytes + i.sort_bytes,
        BACKWARD,
        Torch("15 to 20", torch_partials),
    ),
    Operator(
        "embedding_bag backward, max",
        lambda i: bag_backward(i, 2, i.positions),
        "reduce_runs",
        lambda i: (
            sectors_of_rows(i.marks, torch.arange(i.count))
            + sectors_of_maxima(i)
            + pairs(i)
            + touched_rows(i)
        ),
        lambda i: (
            i.indices.nbytes
            + i.offsets.nbytes
            + noted_bags(i)
            + i.sort_bytes
            + i.positions.nbytes
            + i.marks.nbytes
        ),
        MARKED,
        Torch("2, atomics", lambda i: 0),
        ISSUE_MARKS,
    ),
    Operator(
        "embedding_bag sparse backward",
        lambda i: ops.embedding_bag_sparse_backward(
            i.bag_gradient, i.indices, i.offsets, ROWS, False, 0, None, False, None
        ),
        "scale_rows",
        lambda i: i.bag_gradient.nbytes + i.row_gradient.nbytes,
        lambda i: i.indices.nbytes + i.offsets.nbytes + noted_bags(i),
        BACKWARD,
        Torch("2, host sync", lambda i: i.indices.nbytes),
    ),
    Operator(
        "per_sample_weights backward",
        lambda i: ops.embedding_bag_per_sample_weights_backward(
            i.bag_gradient, i.weight, i.indices, i.offsets, None, 0, False, None
        ),
        "dot_rows",
        lambda i: table_rows(i) + i.bag_gradient.nbytes + 4 * i.count,
        lambda i: i.indices.nbytes + i.offsets.nbytes + noted_bags(i),
        BACKWARD,
        Torch("1", lambda i: 0),
    ),
    Operator(
        "embedding_renorm_",
        # Every row is too long, and so is read and written.
        lambda i: ops.embedding_renorm_(i.weight.clone(), i.indices, 1e-3, 2.0),
        "renorm_rows",
        lambda i: 2 * touched_rows(i) + 4 * i.count,
        lambda i: i.indices.nbytes + i.sort_bytes,
        BACKWARD,
        Torch("15 to 20", torch_sort),
    ),
    updater("SGD", lambda i: update(i, [], rule="sgd"), lambda i: 0, BACKWARD, ISSUE_RULE),
    updater(
        "Adam",
        lambda i: update(i, i.moments, rule="adam", beta1=0.9, beta2=0.999),
        lambda i: sum(sectors_of_rows(each, i.touched) for each in i.moments),
        BACKWARD,
        ISSUE_RULE,
    ),
    updater(
        "row-wise Adagrad",
        lambda i: update(i, [i.squares], rule="row_wise_adagrad"),
        lambda i: sectors_of_rows(i.squares.view(-1, 1), i.touched),
        TWICE,
        ISSUE_TWICE,
    ),
]
