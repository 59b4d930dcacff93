"""TransE of pykeen, which trains it with a loop of its own and gives its tables new storage."""

from __future__ import annotations

import torch
from harness import assert_same, compare
from pykeen.datasets import Nations
from pykeen.models import TransE
from pykeen.training import SLCWATrainingLoop
from torch import Tensor


class Facts:
    """After each step pykeen assigns the normalised table of the entities to ``weight.data``."""

    def __init__(self) -> None:
        self.data = Nations()

    def build(self) -> torch.nn.Module:
        return TransE(triples_factory=self.data.training, embedding_dim=50, random_seed=0)

    def train(self, model: torch.nn.Module) -> list[float]:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        loop = SLCWATrainingLoop(
            model=model, triples_factory=self.data.training, optimizer=optimizer
        )
        return loop.train(
            self.data.training, num_epochs=20, batch_size=128, use_tqdm=False, num_workers=0
        )

    def evaluate(self, model: torch.nn.Module) -> Tensor:
        return model.predict_hrt(self.data.validation.mapped_triples)


def test_transe() -> None:
    client = Facts()
    comparison = compare("pykeen TransE", 2, client)
    for run in (comparison.theirs, comparison.ours):
        weight = run.model.entity_representations[0]._embeddings.weight.detach()
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)))
    assert_same(comparison)
