"""The engines: PyTorch, and myemb with updates that happen during the backward pass."""

from __future__ import annotations

from torch import nn
from torch.optim import Adagrad, Optimizer

from .model import Engine, Identifier

ENGINES = ("torch-sparse", "myemb-fused")


def engine(name: str) -> Engine:
    """Returns one of ENGINES.

    Raises:
        ImportError: if myemb is asked for and not installed.
    """
    return _torch_sparse() if name == "torch-sparse" else _myemb_fused()


def _torch_sparse() -> Engine:
    def optimisers(model: Identifier, learning_rate: float) -> list[Optimizer]:
        return [Adagrad(model.parameters(), lr=learning_rate)]

    return Engine("torch sparse", nn.EmbeddingBag, optimisers)


def _myemb_fused() -> Engine:
    import myemb.nn
    import myemb.optim

    def optimisers(model: Identifier, learning_rate: float) -> list[Optimizer]:
        of_table = myemb.optim.Adagrad(model.table.parameters(), lr=learning_rate)
        # The rows are updated where their gradient is summed up: it is never stored, and step() has
        # nothing left to do.
        myemb.optim.fuse_in_backward(of_table, model.table)
        return [of_table, Adagrad(model.classifier.parameters(), lr=learning_rate)]

    return Engine("myemb fused", myemb.nn.EmbeddingBag, optimisers)
