"""PyTorch Geometric: MetaPath2Vec and TransE, whose tables have sparse gradients."""

from __future__ import annotations

import torch
from films import graph, ratings
from harness import assert_same, compare, fit
from torch import Tensor
from torch_geometric.nn import MetaPath2Vec, TransE

import myemb

LIKES, LIKED_BY = ("user", "likes", "film"), ("film", "liked by", "user")


class Walks:
    """MetaPath2Vec on who likes which film; the model slices its table for a kind of node."""

    def __init__(self, optimizer: type[torch.optim.Optimizer]) -> None:
        self.optimizer = optimizer
        self.data = ratings()
        liked = self.data.liked("train").bool()
        count = len(liked)
        self.edges = torch.stack([self.data.user[:count][liked], self.data.film[:count][liked]])

    def build(self) -> torch.nn.Module:
        return MetaPath2Vec(
            {LIKES: self.edges, LIKED_BY: self.edges.flip(0)},
            embedding_dim=32,
            metapath=[LIKES, LIKED_BY],
            walk_length=20,
            context_size=5,
            walks_per_node=2,
            num_negative_samples=2,
            num_nodes_dict={name: self.data.num_rows[name] for name in ("user", "film")},
            sparse=True,
        )

    def train(self, model: torch.nn.Module) -> list[float]:
        optimizer = self.optimizer(model.parameters(), lr=0.01)
        loader = model.loader(batch_size=64, shuffle=True)
        walks = (walk for _ in range(15) for walk in loader)
        return fit(optimizer, walks, lambda walk: model.loss(*walk))

    def evaluate(self, model: torch.nn.Module) -> Tensor:
        return torch.cat([model("user"), model("film")]).detach().clone()

    def like(self, film: int, output: Tensor) -> list[str]:
        """The titles of the films nearest to one."""
        films = torch.nn.functional.normalize(output[self.data.num_rows["user"] :])
        nearest = (films @ films[film]).topk(4).indices.tolist()
        return [self.data.titles[other] for other in nearest if other != film]


class Knowledge:
    """TransE on what Freebase knows about the films, trained with Adagrad."""

    def __init__(self) -> None:
        self.triples = graph()

    def build(self) -> torch.nn.Module:
        head, relation, tail = self.triples
        entities = int(torch.cat([head, tail]).max()) + 1
        return TransE(entities, int(relation.max()) + 1, hidden_channels=50, sparse=True)

    def train(self, model: torch.nn.Module) -> list[float]:
        optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
        loader = model.loader(*self.triples, batch_size=1000, shuffle=True)
        batches = (batch for _ in range(2) for batch in loader)
        return fit(optimizer, batches, lambda batch: model.loss(*batch))

    def evaluate(self, model: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            return model(*(part[:2000] for part in self.triples))


def test_metapath2vec() -> None:
    client = Walks(torch.optim.SparseAdam)
    comparison = compare("PyG MetaPath2Vec", 1, client)
    titles = [client.like(0, run.output) for run in (comparison.theirs, comparison.ours)]
    comparison.figures = "Toy Story ~ " + ", ".join(titles[1])
    assert titles[0] == titles[1]
    assert comparison.ours.gradients["embedding.weight"].is_sparse
    assert_same(comparison)


def test_metapath2vec_with_our_adam() -> None:
    theirs, ours = Walks(torch.optim.SparseAdam), Walks(myemb.optim.Adam)
    comparison = compare("PyG MetaPath2Vec, myemb.optim.Adam for SparseAdam", 1, theirs, ours)
    assert_same(comparison, losses=1e-4)


def test_transe() -> None:
    client = Knowledge()
    comparison = compare("PyG TransE", 2, client)
    assert_same(comparison)
