"""The operators of cuda_model.py that take many tables at once."""

from __future__ import annotations

import torch
from cuda_model_operators import (
    BACKWARD,
    FORWARD,
    ISSUE_RULE,
    ISSUE_TWICE,
    ROWS,
    TABLES,
    TWICE,
    Inputs,
    Operator,
    Torch,
    pairs,
    sectors_of_rows,
    torch_partials,
)
from torch import Tensor

ops = torch.ops.myemb
ISSUE_TABLES = 1.1  # times the bounds of one table: to find a lookup's feature and a row's table
TABLE_DTYPES = {torch.float32: 6, torch.bfloat16: 15}  # at::ScalarType


def tables_backward(inputs: Inputs) -> list[Tensor]:
    """Runs the dense backward of embedding_bag_tables."""
    width = inputs.weight.size(1)
    dtypes = [TABLE_DTYPES[inputs.weight.dtype]] * TABLES
    layout = ([ROWS // TABLES] * TABLES, [width] * TABLES, dtypes, None, None, None, None, [])
    return ops.embedding_bag_tables_backward(
        *(inputs.table_gradient, inputs.table_indices, inputs.table_offsets, None),
        *layout,
        list(range(TABLES)),
    )


def update_tables(inputs: Inputs, states: list[Tensor], rule: str) -> None:
    """Runs a step of an optimizer on all tables."""
    ops.embedding_bag_tables_update_(
        [table.clone() for table in inputs.tables],
        states,
        *(inputs.table_gradient, inputs.table_indices, inputs.table_offsets),
        *(None, None, None, None, None),
        list(range(TABLES)),
        rule=rule,
        lr=1e-3,
        eps=1e-8,
    )


def table_sums_needed(inputs: Inputs) -> int:
    """Returns what the gradients of tables need of the gradient of the output, and to be sorted."""
    gradient = sectors_of_rows(inputs.bag_gradient, inputs.table_gradient_rows)
    return gradient + pairs(inputs)


def touched_table_rows(inputs: Inputs) -> int:
    """Returns touched_rows of the tables."""
    return sectors_of_rows(inputs.weight, inputs.table_rows.unique())


def table_sort_needs(inputs: Inputs) -> int:
    """Returns what is needed to sort the lookups of tables."""
    return inputs.table_indices.nbytes + inputs.table_offsets.nbytes + inputs.sort_bytes


def tables_updater(rule: str, states: int, bound: float, issue: float) -> Operator:
    """Returns a rule applied to all tables, which has so many states for each row."""

    def call(inputs: Inputs) -> None:
        made = [state for part in inputs.squares.chunk(TABLES) for state in [part] * states]
        update_tables(inputs, made, rule)

    return Operator(
        f"tables update, {rule.replace('_', ' ')}",
        call,
        "reduce_runs",
        lambda i: (
            table_sums_needed(i)
            + 2 * touched_table_rows(i)
            + 2 * states * sectors_of_rows(i.squares.view(-1, 1), i.table_rows.unique())
        ),
        table_sort_needs,
        bound,
        Torch("-", lambda i: 0),
        issue,
    )


TABLE_OPERATORS = [
    Operator(
        "embedding_bag_tables, sum",
        lambda i: ops.embedding_bag_tables(i.tables, i.table_indices, i.table_offsets),
        "reduce_segments",
        lambda i: (
            sectors_of_rows(i.weight, i.table_rows)
            + i.table_indices.nbytes
            + i.table_offsets.nbytes
            + i.bag_gradient.nbytes
        ),
        lambda i: 0,
        FORWARD,
        Torch("1 a table", lambda i: 0),
    ),
    Operator(
        "tables backward, sum",
        tables_backward,
        "reduce_runs",
        lambda i: table_sums_needed(i) + touched_table_rows(i),
        table_sort_needs,
        BACKWARD,
        Torch("15 to 20 a table", torch_partials),
        ISSUE_TABLES,
    ),
    tables_updater("sgd", 0, BACKWARD, ISSUE_RULE * ISSUE_TABLES),
    tables_updater("row_wise_adagrad", 1, TWICE, ISSUE_TWICE * ISSUE_TABLES),
]
