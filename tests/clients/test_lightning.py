"""Lightning's Trainer, with torch.nn's modules and with ours."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import lightning
import movielens_training as movielens
import torch
from movielens_training import STEPS, TORCH, Variant, each_variant
from torch import Tensor

warnings.filterwarnings("ignore", module="lightning")


class Module(lightning.LightningModule):
    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.model = movielens.recommender(variant)
        self.losses: list[float] = []

    def training_step(self, ratings: Tensor, _: int) -> Tensor:
        loss = movielens.loss_of(self.model, ratings)
        self.losses.append(loss.item())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return movielens.optimizer_of(self.variant, self.model)


def fit(variant: Variant, steps: int = STEPS, **options: Any) -> tuple[Module, Any]:
    module = Module(variant)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(4)
    trainer.fit(module, movielens.loader(), **options)
    return module, trainer


@functools.cache
def losses_with_torch() -> list[float]:
    return fit(TORCH)[0].losses


@each_variant
def test_the_same_losses(variant: Variant) -> None:
    module, _ = fit(variant)
    movielens.check_equal(module.losses, losses_with_torch())
    if variant.fused:
        assert all(table.grad is None for table in module.model.tables.parameters())


@each_variant
def test_a_checkpoint(variant: Variant, tmp_path: Path) -> None:
    _, trainer = fit(variant, 20)
    trainer.save_checkpoint(tmp_path / "checkpoint")
    (optimizer,) = trainer.optimizers
    resumed, trainer = fit(variant, 21, ckpt_path=tmp_path / "checkpoint", weights_only=False)
    assert len(resumed.losses) == 1
    (of_resumed,) = trainer.optimizers
    for state, later in zip(optimizer.state.values(), of_resumed.state.values(), strict=True):
        assert int(state["step"]) == 20 and int(later["step"]) == 21
