"""Several processes on this machine: what each check, which runs in all of them at once, said."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed_checkpoint
import distributed_dtensor
import distributed_training
import pytest
from processes import run_checks

CHECKS = (*distributed_dtensor.CHECKS, *distributed_training.CHECKS)
CHECKS_OF = {
    2: (*CHECKS, *distributed_dtensor.CHECKS_OF_TWO),
    4: (*CHECKS, *distributed_training.CHECKS_OF_FOUR),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """What the checks of so many processes said; they run when it is asked for."""

    @functools.cache
    def of(world_size: int) -> dict[str, str]:
        checks = {check.__name__: check for check in CHECKS_OF[world_size]}
        return run_checks(world_size, checks, tmp_path_factory.mktemp("processes"))

    return of


@pytest.mark.parametrize(
    ("world_size", "check"), [(n, check.__name__) for n in CHECKS_OF for check in CHECKS_OF[n]]
)
def test_processes_give_what_one_gives(
    outcomes: Callable[[int], dict[str, str]], world_size: int, check: str
) -> None:
    error = outcomes(world_size)[check]
    if error:
        pytest.fail(error, pytrace=False)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_four_processes_save_and_two_and_one_load(tmp_path: Path) -> None:
    saved = tmp_path / "checkpoint"
    for world_size, act in ((4, distributed_checkpoint.save), (2, distributed_checkpoint.load)):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        checks: dict[str, Any] = {"check": functools.partial(act, saved)}
        error = run_checks(world_size, checks, folder)["check"]
        if error:
            pytest.fail(error, pytrace=False)
    distributed_checkpoint.load_into_one(saved, fused=False)
    distributed_checkpoint.load_into_one(saved, fused=True)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_state_of_fused_tables_in_a_checkpoint(tmp_path: Path) -> None:
    distributed_checkpoint.save_and_load_fused(tmp_path)
