"""The recommender of examples/movielens for training loops by others: model, data and loss."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pytest
import torch
from examples.movielens import dataset
from examples.movielens.engines import engine
from examples.movielens.model import Recommender
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

import myemb

STEPS, BATCH, LEARNING_RATE = 200, 128, 0.05


class Variant(NamedTuple):
    """What looks up and what updates the tables."""

    swapped: bool
    sparse: bool
    optimizer: Any
    fused: bool = False


TORCH = Variant(False, False, torch.optim.Adagrad)
VARIANTS = {
    "torch's optimizer": Variant(True, False, torch.optim.Adagrad),
    "torch's optimizer, sparse gradients": Variant(True, True, torch.optim.Adagrad),
    "our optimizer": Variant(True, True, myemb.optim.Adagrad),
    "fused": Variant(True, False, myemb.optim.Adagrad, fused=True),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


@functools.cache
def data() -> dataset.MovieLens:
    return dataset.load(dataset.fetch())


def recommender(variant: Variant) -> Recommender:
    """Equal weights, whatever the variant."""
    torch.manual_seed(3)
    name = "torch-sparse" if variant.sparse else "torch-dense"
    model = Recommender(data().num_rows, engine(name))
    return myemb.replace_embeddings_(model) if variant.swapped else model


def optimizer_of(variant: Variant, model: Recommender) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = variant.optimizer(model.parameters(), lr=LEARNING_RATE)
    if variant.fused:
        myemb.optim.fuse_in_backward(optimizer, model.tables)
    return optimizer


def loader() -> DataLoader[Tensor]:
    """Numbers of ratings, a batch of them at a time, in an order that the generator decides."""
    ratings: Any = torch.arange(len(data().splits["train"]))
    return DataLoader(ratings, batch_size=BATCH, shuffle=True, drop_last=True)


def loss_of(model: Any, ratings: Tensor) -> Tensor:
    labels = data().liked("train")[ratings]
    return binary_cross_entropy_with_logits(model(data().batch(ratings)), labels)


def check_equal(losses: list[float], expected: list[float]) -> None:
    """The first ones are the same numbers; later ones see sums that were rounded elsewhere."""
    assert len(losses) == len(expected) == STEPS
    actual, theirs = torch.tensor(losses), torch.tensor(expected)
    torch.testing.assert_close(actual[:5], theirs[:5], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actual[-20:].mean(), theirs[-20:].mean(), rtol=2e-3, atol=0)
    assert theirs[-20:].mean() < 0.95 * theirs[:5].mean(), "something is learned"
