"""Compiles a model ahead of time for ``package.cpp``: ``python package.py MODEL.pt2``."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import myemb


class Bags(torch.nn.Module):
    """Weighted sums of bags from a table, and the same sums by a product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = myemb.nn.EmbeddingBag(10, 8, mode="sum", padding_idx=0)

    def forward(self, indices: Tensor, offsets: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Indices ``(N,)``, offsets ``(B,)`` and factors ``(N,)`` to two times ``(B, 8)``."""
        position = torch.arange(indices.size(0))
        ends = torch.cat([offsets, offsets.new_full((1,), indices.size(0))])[1:]
        mine = (position >= offsets.unsqueeze(1)) & (position < ends.unsqueeze(1))
        chosen = torch.nn.functional.one_hot(indices, 10) * factors.unsqueeze(1)
        chosen = chosen * (indices != 0).unsqueeze(1)
        return self.bags(indices, offsets, factors), (mine.float() @ chosen) @ self.bags.weight


def main(path: str) -> None:
    """Writes the package."""
    lookups, bags = torch.export.Dim("lookups", min=2), torch.export.Dim("bags", min=2)
    program = torch.export.export(
        Bags(),
        (torch.tensor([1, 2, 3, 0]), torch.tensor([0, 1, 1]), torch.ones(4)),
        dynamic_shapes={"indices": {0: lookups}, "offsets": {0: bags}, "factors": {0: lookups}},
    )
    torch._inductor.aoti_compile_and_package(program, package_path=path)


if __name__ == "__main__":
    main(sys.argv[1])
