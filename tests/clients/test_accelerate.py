"""Accelerate's loop, with torch.nn's modules and with ours."""

from __future__ import annotations

import functools
from pathlib import Path

import accelerate
import movielens_training as movielens
import torch
from movielens_training import STEPS, TORCH, Variant, each_variant


def fit(variant: Variant, folder: Path | None = None) -> list[float]:
    """With ``folder``, the state is saved and loaded half-way."""
    accelerator = accelerate.Accelerator(cpu=True)
    model = movielens.recommender(variant)
    torch.manual_seed(4)
    model, optimizer, batches = accelerator.prepare(
        model, movielens.optimizer_of(variant, model), movielens.loader()
    )
    losses = []
    for step, ratings in enumerate(batches):
        if step == STEPS // 2 and folder is not None:
            accelerator.save_state(str(folder))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
            accelerator.load_state(str(folder))
        if step == STEPS:
            break
        with accelerator.accumulate(model):
            loss = movielens.loss_of(model, ratings)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    accelerator.free_memory()
    return losses


@functools.cache
def losses_with_torch() -> list[float]:
    return fit(TORCH)


@each_variant
def test_the_same_losses(variant: Variant, tmp_path: Path) -> None:
    losses = fit(variant)
    movielens.check_equal(losses, losses_with_torch())
    assert fit(variant, tmp_path) == losses, "the state that was saved is the whole state"
