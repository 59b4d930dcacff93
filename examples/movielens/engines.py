"""The engines: what looks up the tables of the model, and what updates them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from .features import Batch
from .model import BAG_MODES, DIM, MAX_NORM, Engine, Recommender

ENGINES = ("torch-dense", "torch-sparse", "myemb-fused")


def engine(name: str) -> Engine:
    """Returns one of ENGINES.

    Raises:
        ImportError: if myemb is asked for and not installed.
    """
    return _myemb_fused() if name == "myemb-fused" else _torch(sparse=name == "torch-sparse")


class SingleTables(nn.Module):
    """A module of PyTorch for each table, and a call of it for each feature."""

    def __init__(self, num_rows: dict[str, int], sparse: bool) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(
            {name: self._table(name, rows, sparse) for name, rows in num_rows.items()}
        )

    @staticmethod
    def _table(name: str, rows: int, sparse: bool) -> nn.Module:
        if name not in BAG_MODES:
            return nn.Embedding(rows, DIM, max_norm=MAX_NORM.get(name), sparse=sparse)
        mode = BAG_MODES[name]
        return nn.EmbeddingBag(rows, DIM, mode=mode, sparse=sparse, include_last_offset=True)

    def forward(self, batch: Batch) -> Tensor:
        """Returns the vectors of all features side by side: float32 (B, F * DIM)."""
        return torch.cat([self._look_up(name, batch) for name in self.tables], 1)

    def _look_up(self, name: str, batch: Batch) -> Tensor:
        if name in batch.rows:
            vectors: Tensor = self.tables[name](batch.rows[name])
        else:
            bags = batch.bags[name]
            vectors = self.tables[name](bags.indices, bags.offsets, per_sample_weights=bags.weights)
        return vectors


def _torch(sparse: bool) -> Engine:
    def optimisers(model: Recommender, learning_rate: float) -> list[Optimizer]:
        return [Adagrad(model.parameters(), lr=learning_rate)]

    return Engine(
        f"torch {'sparse' if sparse else 'dense'}",
        lambda num_rows: SingleTables(num_rows, sparse),
        optimisers,
    )


def _myemb_fused() -> Engine:
    import myemb.optim
    from myemb.nn import EmbeddingBag, EmbeddingBagCollection, Table

    class CollectedTables(nn.Module):
        """All tables in one call; a feature without a bag is a bag of one."""

        def __init__(self, num_rows: dict[str, int]) -> None:
            super().__init__()
            self.tables = EmbeddingBagCollection(
                Table(rows, DIM, BAG_MODES.get(name, "sum"), name, max_norm=MAX_NORM.get(name))
                for name, rows in num_rows.items()
            )
            for name, table in self.tables.tables.items():
                if isinstance(table, EmbeddingBag) and name in BAG_MODES:
                    table.include_last_offset = True

        def forward(self, batch: Batch) -> Tensor:
            bags = {name: (b.indices, b.offsets) for name, b in batch.bags.items()}
            weights = {n: b.weights for n, b in batch.bags.items() if b.weights is not None}
            rows = {name: rows.unsqueeze(1) for name, rows in batch.rows.items()}
            vectors: Tensor = self.tables(rows | bags, per_sample_weights=weights)
            return vectors

    def optimisers(model: Recommender, learning_rate: float) -> list[Optimizer]:
        of_tables = myemb.optim.Adagrad(model.tables.parameters(), lr=learning_rate)
        # The rows are updated where their gradient is summed up: it is never stored, and step() has
        # nothing left to do.
        myemb.optim.fuse_in_backward(of_tables, model.tables)
        return [of_tables, Adagrad(model.mlp.parameters(), lr=learning_rate)]

    return Engine("myemb fused", CollectedTables, optimisers)
