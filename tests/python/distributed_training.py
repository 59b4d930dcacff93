"""Checks of DistributedDataParallel, FSDP2 and sharded optimizers; see test_distributed.py.

Each process trains on its part of a batch. Beside it, it trains torch.nn's modules on all of it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import myemb
from myemb.nn import EmbeddingBagCollection

ROWS, WIDTH, BATCH = 20, 6, 16
STEPS = 3
TORCHS = {myemb.optim.Adam: torch.optim.Adam, myemb.optim.Adagrad: torch.optim.Adagrad}


class Model(nn.Module):
    """A lookup, a bag, a table that most batches leave alone, and a layer."""

    def __init__(self, library: Any, sparse: bool = False) -> None:
        super().__init__()
        self.films = library.Embedding(ROWS, WIDTH, sparse=sparse)
        self.words = library.EmbeddingBag(ROWS, WIDTH, mode="mean", sparse=sparse)
        self.rare = library.EmbeddingBag(ROWS, WIDTH, mode="max")
        self.linear = nn.Linear(WIDTH, 3)

    def forward(self, films: Tensor, words: Tensor, with_rare: bool = True) -> Tensor:
        vectors = self.films(films) * self.words(words)
        if with_rare:
            vectors = vectors + self.rare(words)
        output: Tensor = self.linear(vectors)
        return output


def models(sparse: bool = False) -> tuple[Model, Model]:
    """Ours, and torch's with the same weights."""
    single = Model(nn, sparse).double()
    model = Model(nn, sparse).double()
    model.load_state_dict(single.state_dict())
    return myemb.replace_embeddings_(model), single


def batches(steps: int = STEPS) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [
        (
            torch.randint(ROWS, (BATCH,)),
            torch.randint(ROWS, (BATCH, 4)),
            torch.randn(BATCH, 3, dtype=torch.float64),
        )
        for _ in range(steps)
    ]


def own(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The part of this process."""
    return tuple(t.chunk(dist.get_world_size())[dist.get_rank()] for t in tensors)


def backward(model: Any, films: Tensor, words: Tensor, upstream: Tensor, *more: Any) -> None:
    output = model(films, words, *more)
    output.backward(upstream.to(output.dtype) / len(upstream))


def dense(tensor: Any) -> Tensor:
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    result: Tensor = tensor.to_dense() if tensor.is_sparse else tensor
    return result.detach()


def check_equal(model: nn.Module, single: nn.Module, gradients: bool = False) -> None:
    for (name, ours), theirs in zip(model.named_parameters(), single.parameters(), strict=True):
        if gradients and theirs.grad is None:
            assert ours.grad is None or not dense(ours.grad).any(), name
        elif gradients:
            torch.testing.assert_close(dense(ours.grad), dense(theirs.grad), msg=name)
            assert ours.grad.is_sparse == theirs.grad.is_sparse
        torch.testing.assert_close(dense(ours), theirs.detach(), msg=name)


def train(
    model: Any, single: nn.Module, optimizer: Any, theirs: Any, steps: int = STEPS, *more: Any
) -> None:
    for batch in batches(steps):
        for of, data, step in ((model, own(batch), optimizer), (single, batch, theirs)):
            step.zero_grad()
            backward(of, *data, *more)
            step.step()


def data_parallel() -> None:
    options: dict[str, Any]
    for sparse in (False, True):
        for options in (
            {},
            {"find_unused_parameters": True},
            {"gradient_as_bucket_view": True},
            {"static_graph": True},
        ):
            model, single = models(sparse)
            parallel = DistributedDataParallel(model, **options)
            with_rare = not options.get("find_unused_parameters")
            for batch in batches():
                for of, data in ((parallel, own(batch)), (single, batch)):
                    of.zero_grad()
                    backward(of, *data, with_rare)
                check_equal(model, single, gradients=True)


def data_parallel_with_our_optimizers() -> None:
    for sparse in (False, True):
        model, single = models(sparse)
        rate = {"lr": 0.1}
        theirs = torch.optim.Adagrad(single.parameters(), **rate)
        optimizer = myemb.optim.Adagrad(model.parameters(), **rate)
        train(DistributedDataParallel(model), single, optimizer, theirs)
        check_equal(model, single)


def accumulated_gradients() -> None:
    for sparse in (False, True):
        model, single = models(sparse)
        parallel = DistributedDataParallel(model)
        for step, batch in enumerate(batches()):
            last = step == STEPS - 1
            with contextlib.nullcontext() if last else parallel.no_sync():
                backward(parallel, *own(batch))
            backward(single, *batch)
        check_equal(model, single, gradients=True)


def uneven_inputs() -> None:
    """The first process has a batch more than the others."""
    model, single = models()
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    theirs = torch.optim.SGD(single.parameters(), lr=0.1)
    shared, extra = batches(2)
    steps = [own(shared), extra] if dist.get_rank() == 0 else [own(shared)]
    with Join([parallel], divide_by_initial_world_size=False):
        for batch in steps:
            optimizer.zero_grad()
            backward(parallel, *batch)
            optimizer.step()
    for batch in (shared, extra):
        theirs.zero_grad()
        backward(single, *batch)
        theirs.step()
    if dist.get_rank() == 0:
        check_equal(model, single)


def fused_tables_are_refused() -> None:
    """Each process would go its own way."""
    for fuse_first in (False, True):
        for options in ({}, {"find_unused_parameters": True}, {"static_graph": True}):
            model, _ = models()
            tables = [model.films.weight, model.words.weight]
            optimizer = myemb.optim.SGD(tables, lr=0.1)
            before = [table.detach().clone() for table in tables]
            if fuse_first:
                myemb.optim.fuse_in_backward(optimizer, tables)
            parallel = DistributedDataParallel(model, **options)
            if not fuse_first:
                myemb.optim.fuse_in_backward(optimizer, tables)
            with pytest.raises(RuntimeError, match="DistributedDataParallel"):
                backward(parallel, *own(batches(1)[0]))
            assert all(map(torch.equal, tables, before))
    model, _ = models()
    fully_shard(model)
    with pytest.raises(NotImplementedError, match="DTensor"):
        myemb.optim.fuse_in_backward(myemb.optim.SGD(model.parameters()), model)


def sparse_gradients_are_refused_by_fsdp() -> None:
    """By torch, of its own modules as of ours."""
    for of in models(sparse=True):
        fully_shard(of)
        with pytest.raises(RuntimeError, match="not implemented for sparse tensors"):
            backward(of, *own(batches(1)[0]))


def left_out_of_data_parallel() -> None:
    """Tables that DistributedDataParallel is told to leave alone may be fused, each by itself."""
    model, single = models()
    names = ["films.weight", "words.weight"]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    optimizer = myemb.optim.SGD([model.films.weight, model.words.weight], lr=0.1)
    myemb.optim.fuse_in_backward(optimizer, [model.films.weight, model.words.weight])
    batch = own(batches(1)[0])
    backward(DistributedDataParallel(model), *batch)
    backward(single, *batch)
    for ours, theirs in ((model.films, single.films), (model.words, single.words)):
        torch.testing.assert_close(ours.weight, theirs.weight - 0.1 * theirs.weight.grad)


def fully_sharded() -> None:
    for optimizer_class in (torch.optim.Adam, *TORCHS):
        for reshard in (True, False):
            model, single = models()
            for part in model.children():
                fully_shard(part, reshard_after_forward=reshard)
            fully_shard(model, reshard_after_forward=reshard)
            optimizer = optimizer_class(model.parameters(), lr=0.1)
            theirs = TORCHS.get(optimizer_class, torch.optim.Adam)(single.parameters(), lr=0.1)
            train(model, single, optimizer, theirs)
            check_equal(model, single)
            assert isinstance(model.films.weight, DTensor)


def many_tables_in_one_call() -> None:
    for wrap in (DistributedDataParallel, fully_shard):
        single = nn.ModuleList([nn.EmbeddingBag(ROWS, width).double() for width in (3, WIDTH)])
        model = EmbeddingBagCollection.from_embedding_bags(
            dict(zip("ab", copy.deepcopy(single), strict=True))
        )
        wrapped: Any = wrap(model)
        first, second = torch.randint(ROWS, (2, BATCH, 4))
        upstream = torch.randn(BATCH, 3 + WIDTH, dtype=torch.float64)
        torch.cat([single[0](first), single[1](second)], 1).backward(upstream / BATCH)
        first, second, upstream = own((first, second, upstream))
        wrapped({"a": first, "b": second}).backward(upstream / len(upstream))
        check_equal(model, single, gradients=True)


def fully_sharded_row_wise_adagrad() -> None:
    model, single = models()
    fully_shard(model)
    tables = [model.films.weight, model.words.weight]
    optimizer = myemb.optim.RowWiseAdagrad(tables, lr=0.1)
    theirs = myemb.optim.RowWiseAdagrad([single.films.weight, single.words.weight], lr=0.1)
    train(model, single, optimizer, theirs)
    check_equal(model, single)
    for table in tables:
        assert optimizer.state[table]["sum"].placements == table.placements


def rows_of_rows() -> None:
    """A square: each table is sharded by rows, and each part of it by fully_shard again."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "rows"))
    for optimizer_class in (torch.optim.Adam, myemb.optim.Adam, myemb.optim.RowWiseAdagrad):
        single = nn.Embedding(ROWS, WIDTH).double()
        model: Any = myemb.replace_embeddings_(copy.deepcopy(single))
        parallelize_module(model, mesh["rows"], RowwiseParallel(input_layouts=Replicate()))
        fully_shard(model, mesh=mesh["data"])
        assert model.weight.to_local().shape == (ROWS // 4, WIDTH)
        optimizer = optimizer_class(model.parameters(), lr=0.1)
        theirs = TORCHS.get(optimizer_class, optimizer_class)(single.parameters(), lr=0.1)
        for _ in range(STEPS):
            indices = torch.randint(ROWS, (2, BATCH))
            upstream = torch.randn(2, BATCH, WIDTH, dtype=torch.float64)
            row = mesh["data"].get_local_rank()
            for of, step, data, gradient in (
                (model, optimizer, indices[row], upstream[row]),
                (single, theirs, indices, upstream / 2),
            ):
                step.zero_grad()
                of(data).backward(gradient)
                step.step()
        check_equal(model, single)


def mixed_precision() -> None:
    """As with torch.nn's modules, but sums of bf16 are rounded once."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model, single = (part.float() for part in models())
    for of in (model, single):
        fully_shard(of, mp_policy=policy)
    batch = own(batches(1)[0])
    for of in (model, single):
        backward(of, *batch)
    for ours, theirs in zip(model.parameters(), single.parameters(), strict=True):
        assert ours.grad is not None and ours.grad.dtype == torch.float32
        torch.testing.assert_close(dense(ours.grad), dense(theirs.grad), rtol=0.02, atol=0.02)


def zero_redundancy() -> None:
    for sparse in (False, True):
        model, single = models(sparse)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), myemb.optim.Adagrad, lr=0.1)
        theirs = torch.optim.Adagrad(single.parameters(), lr=0.1)
        train(DistributedDataParallel(model), single, optimizer, theirs)
        check_equal(model, single)


def averaged_model() -> None:
    model, single = models()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average_of_theirs = AveragedModel(single, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    parallel = DistributedDataParallel(model)
    optimizer = myemb.optim.Adam(model.parameters(), lr=0.1)
    theirs = torch.optim.Adam(single.parameters(), lr=0.1)
    for _ in range(STEPS):
        train(parallel, single, optimizer, theirs, 1)
        average.update_parameters(model)
        average_of_theirs.update_parameters(single)
    check_equal(average.module, average_of_theirs.module)
    films, words, _ = batches(1)[0]
    torch.testing.assert_close(average(films, words), average_of_theirs(films, words))


CHECKS: tuple[Callable[[], None], ...] = (
    data_parallel,
    data_parallel_with_our_optimizers,
    accumulated_gradients,
    uneven_inputs,
    left_out_of_data_parallel,
    fully_sharded,
    fully_sharded_row_wise_adagrad,
    many_tables_in_one_call,
    mixed_precision,
    zero_redundancy,
    averaged_model,
    fused_tables_are_refused,
    sparse_gradients_are_refused_by_fsdp,
)
CHECKS_OF_FOUR = (rows_of_rows,)
