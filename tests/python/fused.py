"""A module with fused tables beside one that takes ordinary steps, for test_fused*.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from optimizers import ours
from torch import Tensor, nn

import myemb
from myemb import optim

ROWS, WIDTH, STEPS = 20, 7, 5


class Pair:
    """A module whose tables are fused, and a copy of it that takes ordinary steps."""

    def __init__(self, case: str, module: nn.Module, **options: Any) -> None:
        self.fused, self.plain = module, copy.deepcopy(module)
        self.fused_optimizer = ours(case, self.fused.parameters(), **options)
        self.plain_optimizer = ours(case, self.plain.parameters(), **options)
        self.handle = optim.fuse_in_backward(self.fused_optimizer, self.fused)

    def step(self, loss: Callable[[nn.Module], Tensor], dense: bool = False) -> None:
        """One step of both by the gradient of what the function computes with a module."""
        state = torch.get_rng_state()
        loss(self.fused).backward()
        for module in self.tables(self.fused):
            assert module.weight.grad is None
        self.fused_optimizer.step()
        torch.set_rng_state(state)
        loss(self.plain).backward()
        if dense:
            for module in self.tables(self.plain):
                assert not module.weight.grad.is_sparse
        self.plain_optimizer.step()
        for optimizer in (self.fused_optimizer, self.plain_optimizer):
            optimizer.zero_grad()

    @staticmethod
    def tables(module: nn.Module) -> list[Any]:
        kinds = (nn.Embedding, nn.EmbeddingBag)
        return [m for m in module.modules() if isinstance(m, kinds)]

    def check(self) -> None:
        """The same bits, states included."""
        pairs = zip(self.fused.parameters(), self.plain.parameters(), strict=True)
        for ours_, theirs in pairs:
            assert torch.equal(ours_, theirs)
            state, expected = self.fused_optimizer.state[ours_], self.plain_optimizer.state[theirs]
            assert state.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(state[name], value), name


def table(**options: Any) -> myemb.nn.Embedding:
    return myemb.nn.Embedding(ROWS, WIDTH, sparse=True, **options)


def bags(mode: str = "sum", **options: Any) -> myemb.nn.EmbeddingBag:
    return myemb.nn.EmbeddingBag(ROWS, WIDTH, mode=mode, sparse=mode != "max", **options)


def weighted(out: Tensor) -> Tensor:
    """A loss whose gradient is random."""
    return (out * torch.randn(out.shape)).sum()
