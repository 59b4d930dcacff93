"""The engines: PyTorch's bags and myemb's, over the same mapped file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import myemb.disk
import myemb.nn


def map_vectors(path: Path) -> Tensor:
    """Maps the vectors: no row is read before it is looked up."""
    return myemb.disk.map_npy(path)


def engines(table: Tensor) -> dict[str, nn.EmbeddingBag]:
    """Returns a module of each engine, by its name, which share the table."""
    classes = {"torch": torch.nn.EmbeddingBag, "myemb": myemb.nn.EmbeddingBag}
    return {name: kind.from_pretrained(table, mode="sum") for name, kind in classes.items()}
