"""torch.distributed.checkpoint of models and our optimizers; see test_distributed.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as checkpoint
from distributed_training import Model, backward, batches, check_equal, models, train
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import myemb

LR = 0.1


def save(folder: Path) -> None:
    model, single = models()
    fully_shard(model)
    optimizer = myemb.optim.Adam(model.parameters(), lr=LR)
    train(model, single, optimizer, torch.optim.Adam(single.parameters(), lr=LR))
    write(model, optimizer, folder)


def write(model: Any, optimizer: Any, folder: Path) -> None:
    parts = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    checkpoint.save(parts, checkpoint_id=folder)


def read(model: Any, optimizer: Any, folder: Path) -> None:
    parts: dict[str, Any] = dict(
        zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True)
    )
    checkpoint.load(parts, checkpoint_id=folder)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=parts["model"],
        optim_state_dict=parts["optimizer"],
    )


def as_if_never_stopped() -> tuple[Model, Any]:
    """torch's modules and optimizer, where the checkpoint was written."""
    torch.manual_seed(20)  # as every check of several processes begins
    _, single = models()
    theirs = torch.optim.Adam(single.parameters(), lr=LR)
    for batch in batches():
        theirs.zero_grad()
        backward(single, *batch)
        theirs.step()
    return single, theirs


def other_model() -> Any:
    return myemb.replace_embeddings_(Model(torch.nn).double())


def load(folder: Path) -> None:
    single, theirs = as_if_never_stopped()
    model = other_model()
    fully_shard(model)
    optimizer = myemb.optim.Adam(model.parameters(), lr=LR)
    read(model, optimizer, folder)
    check_equal(model, single)
    train(model, single, optimizer, theirs)
    check_equal(model, single)


def load_into_one(folder: Path, fused: bool) -> None:
    single, theirs = as_if_never_stopped()
    model = other_model()
    optimizer = myemb.optim.Adam(model.parameters(), lr=LR)
    tables = [model.films.weight, model.words.weight]
    if fused:
        myemb.optim.fuse_in_backward(optimizer, tables)
    read(model, optimizer, folder)
    check_equal(model, single)
    for name, parameter in model.named_parameters():
        state, expected = optimizer.state[parameter], theirs.state[single.get_parameter(name)]
        assert state.keys() == expected.keys()
        for key in state:
            torch.testing.assert_close(state[key], expected[key])
    if not fused:
        for batch in batches():
            for of, step in ((model, optimizer), (single, theirs)):
                step.zero_grad()
                backward(of, *batch)
                step.step()
        check_equal(model, single)
        return
    backward(model, *batches(1)[0])
    assert all(table.grad is None for table in tables)
    assert all(optimizer.state[table]["step"] == 4 for table in tables)


def save_and_load_fused(folder: Path) -> None:
    """Training goes on as if it had not stopped, bit by bit."""
    results = []
    for stops in (False, True):
        torch.manual_seed(20)
        model = other_model()
        optimizer = fused_adagrad(model)
        for step, batch in enumerate(batches(4)):
            if stops and step == 2:
                write(model, optimizer, folder)
                model = other_model_like(model)
                optimizer = fused_adagrad(model)
                read(model, optimizer, folder)
            backward(model, *batch)
            assert model.films.weight.grad is None
            optimizer.step()
            optimizer.zero_grad()
        results.append([parameter.detach() for parameter in model.parameters()])
    for without, with_stop in zip(*results, strict=True):
        assert torch.equal(without, with_stop)


def other_model_like(model: Model) -> Any:
    state = torch.get_rng_state()
    other = other_model()
    torch.set_rng_state(state)
    assert not torch.equal(other.films.weight, model.films.weight)
    return other


def fused_adagrad(model: Any) -> Any:
    optimizer = myemb.optim.Adagrad(model.parameters(), lr=LR)
    myemb.optim.fuse_in_backward(optimizer, model)
    return optimizer
