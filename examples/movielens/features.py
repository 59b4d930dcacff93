"""Features: from columns of the data to rows and bags of rows of the embedding tables."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..common.bags import Bags

HISTORY_LENGTH = 50
MIDDLE = 3.5  # ratings above it speak for a film, ratings below it against

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Strings = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Batch:
    """What the model reads for some (user, film) pairs: one row per pair, one bag per pair."""

    rows: dict[str, Tensor]
    bags: dict[str, Bags]

    @property
    def lookups(self) -> int:
        """The number of table rows that a forward pass over this batch reads."""
        return sum(map(len, self.rows.values())) + sum(
            len(bags.indices) for bags in self.bags.values()
        )


def encode(column: Strings) -> Tensor:
    """Numbers the distinct values of a column."""
    return torch.from_numpy(np.unique(column, return_inverse=True)[1].astype(np.int64))


def word_bags(texts: Strings, minimum_count: int) -> Bags:
    """Makes a bag of the words of each text, without the words that fewer texts hold."""
    words = [list(dict.fromkeys(re.findall(r"[\w'-]+", text.lower()))) for text in texts]
    counts = Counter(word for text in words for word in text)
    kept = sorted(word for word, count in counts.items() if count >= minimum_count)
    row = {word: number for number, word in enumerate(kept)}
    bags = [[row[word] for word in text if word in row] for text in words]
    offsets = np.cumsum([0, *map(len, bags)])
    indices = np.array([index for bag in bags for index in bag], dtype=np.int64)
    return Bags(torch.from_numpy(indices), torch.from_numpy(offsets))


def split_by_time(user: Ints, time: Ints) -> Ints:
    """Returns the split of every rating: of each user's, the oldest 70 % are 0, the next 10 % 1."""
    order = np.lexsort((time, user))
    count = np.bincount(user)
    first = np.cumsum(count) - count
    age = (np.arange(len(user)) - first[user[order]]) / count[user[order]]
    part = np.empty_like(user)
    part[order] = np.digitize(age, [0.7, 0.8])
    return part


def history_bags(
    user: Ints, film: Ints, rating: Floats, of_user: Ints, of_film: Ints, before: Ints
) -> dict[str, Bags]:
    """Makes, for each query, a bag of the films its user rated and one of those who rated its film.

    Args:
        user: the user of every rating, in the order in which the ratings become known.
        film: the film of every rating.
        rating: 1 to 5.
        of_user: the user of each query.
        of_film: the film of each query.
        before: how many of the ratings are known to each query.

    Returns:
        The bags "rated" and "raters", in the order of the queries. A lookup weighs as much as its
        rating is above or below MIDDLE, divided by the size of the bag: the sum is a weighted mean.
    """
    opinion = rating - MIDDLE
    return {
        "rated": _latest(user, film, opinion, of_user, before),
        "raters": _latest(film, user, opinion, of_film, before),
    }


def _latest(group: Ints, index: Ints, weight: Floats, of_group: Ints, before: Ints) -> Bags:
    """Makes a weighted bag of the HISTORY_LENGTH latest known entries of a group for each query."""
    size = len(group)
    order = np.argsort(group, kind="stable")
    key = group[order] * (size + 1) + order  # by group, then by age
    end = np.searchsorted(key, of_group * (size + 1) + before)
    start = np.maximum(np.searchsorted(key, of_group * (size + 1)), end - HISTORY_LENGTH)
    offsets = np.cumsum(np.append(0, end - start))
    position = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], end - start)
    lookups = order[position]
    shares = (weight[lookups] / np.repeat(end - start, end - start)).astype(np.float32)
    return Bags(*map(torch.from_numpy, (index[lookups], offsets, shares)))
