"""``padding_idx`` as the operators take it: not counted from the end."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["bag_padding_row", "padding_row", "padding_rows"]


def padding_row(padding_idx: int, num_embeddings: int) -> int:
    """Of a lookup.

    Raises:
        AssertionError: It is out of range, in the words of ``torch.nn.functional.embedding``.
    """
    if not -num_embeddings <= padding_idx < num_embeddings:
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx + num_embeddings if padding_idx < 0 else padding_idx


def padding_rows(each: Sequence[int | None], weights: Sequence[Tensor]) -> list[int] | None:
    """Of many tables: -1 for one that has none; ``None`` if no table has one."""
    if all(padding_idx is None for padding_idx in each):
        return None
    return [
        -1 if padding_idx is None else padding_row(padding_idx, weight.size(0))
        for padding_idx, weight in zip(each, weights, strict=True)
    ]


def bag_padding_row(padding_idx: int, num_embeddings: int) -> int:
    """Of bags.

    Raises:
        RuntimeError: It is out of range, in the words of the operator.
    """
    if not -num_embeddings <= padding_idx < num_embeddings:
        raise RuntimeError(
            f"padding_idx must be within the number of embeddings, -{num_embeddings} through "
            f"{num_embeddings - 1}, but got {padding_idx}"
        )
    return padding_idx + num_embeddings if padding_idx < 0 else padding_idx
