"""Runs checks in several processes that talk over gloo: one start for all of them."""

from __future__ import annotations

import datetime
import queue
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

Check = Callable[[], None]
PRELOAD = [
    "myemb",
    "pytest",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.optim",
    "torch.distributed.tensor.parallel",
    "torch.optim.swa_utils",
]
TIMEOUT = 120  # seconds without a word, on a machine that does other things, too


def context() -> Any:
    """Of processes that have torch and this library already: they are forks of one that has."""
    forkserver = torch.multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(PRELOAD)
    return forkserver


def run_checks(world_size: int, checks: dict[str, Check], folder: Path) -> dict[str, str]:
    """Runs every check in every process, until one fails.

    Args:
        world_size: How many processes.
        checks: Functions of importable modules, by name.
        folder: Where the processes find each other; a new one for each call.

    Returns:
        What each check raised in the process that said so first, or "".
    """
    forks = context()
    results: Any = forks.Queue()
    processes = [
        forks.Process(target=_work, args=(rank, world_size, checks, folder, results), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    outcomes: dict[str, str] = {}
    try:
        for _ in range(world_size * len(checks)):
            name, error = results.get(timeout=TIMEOUT)
            outcomes[name] = outcomes.get(name) or error
    except queue.Empty:
        pass
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    return {name: outcomes.get(name, "an earlier check failed, or it hung") for name in checks}


def _work(rank: int, world_size: int, checks: dict[str, Check], folder: Path, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(folder / "store"), world_size),
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )
    failed = False
    for name, check in checks.items():
        error = "not run: an earlier check failed" if failed else ""
        try:
            torch.manual_seed(20)
            if not failed:
                check()
        except BaseException:
            error = f"rank {rank}:\n{traceback.format_exc()}"
            failed = True
            dist.destroy_process_group()  # the others wait no longer
        results.put((name, error))
    if not failed:
        dist.destroy_process_group()
