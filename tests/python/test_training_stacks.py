"""What torch does with modules around training: replicas, shared memory, workers of a loader."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from processes import TIMEOUT, context
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.utils.data import DataLoader

import myemb
from myemb.nn import EmbeddingBagCollection, Table

ROWS, WIDTH = 40, 4
INDICES = torch.randint(ROWS, (6, 3), generator=torch.Generator().manual_seed(1))


def models() -> list[tuple[str, nn.Module, Any]]:
    collection = EmbeddingBagCollection([Table(ROWS, WIDTH, name="a"), Table(ROWS, 2, name="b")])
    return [
        ("lookup", nn.Sequential(myemb.nn.Embedding(ROWS, WIDTH, padding_idx=3)), INDICES),
        ("bag", nn.Sequential(myemb.nn.EmbeddingBag(ROWS, WIDTH, sparse=True)), INDICES),
        ("swapped", myemb.replace_embeddings_(nn.Sequential(nn.EmbeddingBag(ROWS, 3))), INDICES),
        ("tables", collection, {"a": INDICES, "b": INDICES}),
    ]


@pytest.mark.parametrize("which", range(4), ids=[name for name, _, _ in models()])
def test_replicas_of_data_parallel(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What replicate makes, except that the copies are on the CPU, which it has no devices for."""
    _, model, inputs = models()[which]

    def copies(tensors: list[Tensor], devices: list[int], detach: bool = False) -> list[Any]:
        return [[t.detach().clone() if detach else t.clone() for t in tensors] for _ in devices]

    module = importlib.import_module("torch.nn.parallel.replicate")
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copies)
    monkeypatch.setattr(module, "_get_device_index", lambda index, _: index)
    replicas = module.replicate(model, [0, 1])
    upstream = torch.randn_like(model(inputs))
    for replica in replicas:
        assert not list(replica.parameters())
        output = replica(inputs)
        assert torch.equal(output, model(inputs))
        output.backward(upstream)
    of_replicas = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model(inputs).backward(upstream)
    for gradient, parameter in zip(of_replicas, model.parameters(), strict=True):
        assert gradient is not None and parameter.grad is not None
        assert gradient.is_sparse == parameter.grad.is_sparse
        torch.testing.assert_close(gradient.to_dense(), 2 * parameter.grad.to_dense())


def learn(model: Any, optimizer_class: Any, rows: range, fused: bool) -> None:
    """Makes rows of a table their numbers, a few of them at a time."""
    torch.set_num_threads(1)
    optimizer = optimizer_class(model.parameters(), lr=0.5)
    if fused:
        myemb.optim.fuse_in_backward(optimizer, model)
    for step in range(20):
        indices = torch.tensor([rows[(step + i) % len(rows)] for i in range(5)])
        optimizer.zero_grad()
        loss = (model(indices) - indices.unsqueeze(1)).square().sum() / 2
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_processes_that_train_one_shared_table(fused: bool) -> None:
    """Hogwild; of rows of their own, so that the result is known."""
    single = nn.Embedding(ROWS, WIDTH, sparse=True)
    model = myemb.replace_embeddings_(copy.deepcopy(single)).share_memory()
    parts = (range(0, 20), range(20, 40))
    for rows in parts:
        learn(single, torch.optim.SGD, rows, fused=False)
    processes = [
        context().Process(target=learn, args=(model, myemb.optim.SGD, rows, fused))
        for rows in parts
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=TIMEOUT)
        assert process.exitcode == 0
    torch.testing.assert_close(model.weight, single.weight)


def test_lookups_in_the_workers_of_a_data_loader() -> None:
    table = myemb.nn.EmbeddingBag(ROWS, WIDTH).requires_grad_(False)
    samples = torch.randint(ROWS, (64, 5))
    expected = table(samples)  # the workers are forks of a process that has looked something up
    loader = DataLoader(
        list(samples),
        batch_size=16,
        num_workers=2,
        collate_fn=lambda rows: table(torch.stack(rows)),
    )
    assert torch.equal(torch.cat(list(loader)), expected)


def test_a_hook_that_waits_for_the_gradient_of_a_fused_table() -> None:
    """As DistributedDataParallel has one."""
    table = myemb.nn.Embedding(ROWS, WIDTH)
    optimizer = myemb.optim.SGD(table.parameters(), lr=0.5)
    myemb.optim.fuse_in_backward(optimizer, table)
    before = table.weight.detach().clone()
    node: Any = table.weight.view_as(table.weight).grad_fn
    node.next_functions[0][0].register_hook(lambda *_: None)
    upstream = torch.randn(*INDICES.shape, WIDTH)
    with pytest.raises(RuntimeError, match="somebody waits for it: DistributedDataParallel"):
        table(INDICES).backward(upstream)
    assert torch.equal(table.weight, before)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_optimizer_that_torch_applies_in_backward() -> None:
    single = nn.EmbeddingBag(ROWS, WIDTH)
    model = myemb.replace_embeddings_(copy.deepcopy(single))
    _apply_optimizer_in_backward(myemb.optim.Adagrad, model.parameters(), {"lr": 0.5})
    optimizer = torch.optim.Adagrad(single.parameters(), lr=0.5)
    for _ in range(3):
        upstream = torch.randn(len(INDICES), WIDTH)
        model(INDICES).backward(upstream)
        single(INDICES).backward(upstream)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(model.weight, single.weight)


def test_importing_this_library_does_not_import_dtensor() -> None:
    """It takes as long to import as everything else."""
    program = "import sys, myemb; sys.exit('torch.distributed.tensor' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
