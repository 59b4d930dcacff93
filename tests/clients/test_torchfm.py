"""DeepFM of torchfm: the fields of a rating are rows of two concatenated tables."""

from __future__ import annotations

import torch
from examples.movielens.train import area_under_curve
from films import batches, ratings
from harness import assert_same, compare, fit
from torch import Tensor
from torchfm.model.dfm import DeepFactorizationMachineModel

FIELDS = ("user", "film", "age", "gender", "occupation", "zip", "year")


class DeepFm:
    def __init__(self, epochs: int = 3) -> None:
        self.epochs = epochs
        self.data = ratings()
        every = self.data.batch(torch.arange(len(self.data.user))).rows
        self.fields = torch.stack([every[name] for name in FIELDS], 1)
        self.liked = self.data.liked("train")

    def build(self) -> torch.nn.Module:
        rows = [self.data.num_rows[name] for name in FIELDS]
        return DeepFactorizationMachineModel(rows, embed_dim=16, mlp_dims=(32, 16), dropout=0.2)

    def train(self, model: torch.nn.Module) -> list[float]:
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-6)
        order = [part for _ in range(self.epochs) for part in batches(len(self.liked), 256)]
        loss = torch.nn.functional.binary_cross_entropy
        return fit(optimizer, order, lambda part: loss(model(self.fields[part]), self.liked[part]))

    def evaluate(self, model: torch.nn.Module) -> Tensor:
        model.eval()
        test = self.data.splits["test"]
        with torch.no_grad():
            return model(self.fields[test.start : test.stop])


def test_deepfm() -> None:
    client = DeepFm()
    comparison = compare("torchfm DeepFM", 2, client)
    liked = client.data.liked("test").numpy() > 0
    auc = [
        area_under_curve(run.output.numpy(), liked) for run in (comparison.theirs, comparison.ours)
    ]
    comparison.figures = f"test AUC {auc[0]:.6f}, {auc[1]:.6f}"
    assert_same(comparison)
    assert auc[0] > 0.75


def test_deepfm_compiled() -> None:
    client = DeepFm(epochs=1)
    comparison = compare("torchfm DeepFM, compiled", 2, client, compiled=True)
    assert_same(comparison)
    with torch.profiler.profile() as profile:
        client.evaluate(comparison.ours.model)
    names = {event.name for event in profile.events()}
    assert "myemb::embedding" in names and "aten::embedding" not in names
