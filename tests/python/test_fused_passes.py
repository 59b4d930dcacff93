"""fuse_in_backward: passes without a step, failures, the end of it, and what is refused."""

from __future__ import annotations

import copy
import gc
import threading
from typing import Any

import pytest
import torch
from fused import ROWS, STEPS, WIDTH, Pair, bags, table, weighted
from inputs import MODES, indices
from optimizers import eighths, ours, sparse
from torch import Tensor, nn

import myemb
from myemb import optim

pytestmark = pytest.mark.devices("cpu", why="test_cuda_update.py has the bits of the kernels")


def test_the_rest_of_a_model_takes_ordinary_steps(device: str) -> None:
    pair = Pair("adamw", nn.Sequential(table(), nn.Linear(WIDTH, 3)))
    for _ in range(STEPS):
        lookups = indices("uniform", 30, ROWS)
        pair.step(lambda module, lookups=lookups: weighted(module(lookups)))
    pair.check()


def test_schedulers_and_groups(device: str) -> None:
    first, second = table(), table()
    plain = [nn.Parameter(first.weight.detach().clone()), nn.Parameter(second.weight.detach())]
    plain[1] = nn.Parameter(second.weight.detach().clone())

    def groups(tables: list[Any]) -> list[dict[str, Any]]:
        return [{"params": [tables[0]]}, {"params": [tables[1]], "lr": 0.5, "momentum": 0.5}]

    fused = optim.SGD(groups([first.weight, second.weight]), lr=0.1)
    other = optim.SGD(groups(plain), lr=0.1)
    optim.fuse_in_backward(fused, [first.weight, second.weight])
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (fused, other)]
    for _ in range(STEPS):
        lookups, gradient = indices("uniform", 9, ROWS), eighths(9, WIDTH)
        (first(lookups) + second(lookups)).backward(gradient)
        for parameter in plain:
            myemb.functional.embedding(lookups, parameter, sparse=True).backward(gradient)
        for optimizer, schedule in zip((fused, other), schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    assert torch.equal(first.weight, plain[0])
    assert torch.equal(second.weight, plain[1])


def test_passes_that_do_not_store_a_gradient(device: str) -> None:
    module, other = table(), torch.randn(4, WIDTH, requires_grad=True)
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    optim.fuse_in_backward(optimizer, module)
    before = module.weight.detach().clone()
    lookups = torch.tensor([1, 2, 2, 5])
    out = module(lookups) * other
    gradient = torch.autograd.grad(out.sum(), module.weight, retain_graph=True)[0]
    expected = torch.zeros(ROWS, WIDTH).index_add_(0, lookups, other.detach())
    assert torch.equal(gradient.to_dense(), expected)
    out.sum().backward(inputs=[other], retain_graph=True)
    assert torch.equal(module.weight, before)
    out.sum().backward(inputs=[module.weight], retain_graph=True)
    assert torch.equal(module.weight, before - expected)
    out.sum().backward(retain_graph=True)  # each pass is a step
    out.sum().backward()
    torch.testing.assert_close(module.weight, before - 3 * expected)


def test_a_graph_of_the_gradient_is_refused(device: str) -> None:
    module = table()
    before = module.weight.detach().clone()
    optim.fuse_in_backward(optim.SGD(module.parameters(), lr=1.0), module)  # gone at once
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    optim.fuse_in_backward(optimizer, module)
    out = module(torch.tensor([1, 2])).square().sum()
    with pytest.raises(RuntimeError, match="create_graph"):
        out.backward(create_graph=True)
    assert torch.equal(module.weight, before)
    with pytest.raises(RuntimeError, match="create_graph"):
        module(torch.tensor([1])).square().sum().backward(create_graph=True)


class Failing(torch.autograd.Function):
    """A node whose backward raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise ValueError("no gradient today")


def test_a_pass_that_fails_leaves_nothing_behind(device: str) -> None:
    module = table()
    before = module.weight.detach().clone()
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    optim.fuse_in_backward(optimizer, module)
    failing = Failing.apply(module.weight)[3:4]  # its gradient is waited for
    with pytest.raises(ValueError, match="no gradient today"):
        (module(torch.tensor([1])).sum() + failing.sum()).backward()
    assert torch.equal(module.weight, before)
    module(torch.tensor([2])).sum().backward()
    before[2] -= 1
    assert torch.equal(module.weight, before)


def test_the_end_of_it(device: str) -> None:
    module = table()
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    handle = optim.fuse_in_backward(optimizer, module)
    out = module(torch.tensor([1]))
    handle.remove()
    before = module.weight.detach().clone()
    out.sum().backward()  # of a graph from before, too
    assert torch.equal(module.weight, before)
    assert module.weight.grad is not None
    module.weight.grad = None
    optim.fuse_in_backward(optimizer, module)
    copied = copy.deepcopy(module)
    copied(torch.tensor([1])).sum().backward()
    assert copied.weight.grad is not None
    del optimizer
    gc.collect()
    module(torch.tensor([1])).sum().backward()
    assert module.weight.grad is not None


def test_what_is_refused(device: str) -> None:
    module = table()
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    with pytest.raises(TypeError, match=r"myemb\.optim"):
        optim.fuse_in_backward(torch.optim.SGD(module.parameters(), lr=1.0), module)
    with pytest.raises(ValueError, match="not among"):
        optim.fuse_in_backward(optimizer, table())
    with pytest.raises(ValueError, match="no embedding table"):
        optim.fuse_in_backward(optimizer, nn.Linear(3, 3))
    other = table()
    both = optim.SGD([module.weight, other.weight], lr=1.0)
    optim.fuse_in_backward(optimizer, module)
    with pytest.raises(RuntimeError, match="already"):
        optim.fuse_in_backward(both, [other.weight, module.weight])
    other(torch.tensor([1])).sum().backward()  # nothing of the refused call is left
    assert other.weight.grad is not None
    bias = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="2-D"):
        optim.fuse_in_backward(optim.SGD([bias]), bias)


def test_checkpointing(device: str) -> None:
    pair = Pair("adagrad", table())
    for _ in range(STEPS):
        lookups = indices("zipf", 30, ROWS)

        def loss(module: nn.Module, lookups: Tensor = lookups) -> Tensor:
            def rows(lookups: Tensor) -> Tensor:
                return module(lookups).tanh()

            run = torch.utils.checkpoint.checkpoint
            first = run(rows, lookups, use_reentrant=False)
            return weighted(first + run(rows, lookups.flip(0), use_reentrant=False))

        pair.step(loss)
    pair.check()


def test_threads_with_tables_of_their_own(device: str) -> None:
    pairs = [Pair("momentum", table()) for _ in range(4)]
    inputs = [[indices("zipf", 30, ROWS) for _ in range(STEPS)] for _ in pairs]
    gradient = eighths(30, WIDTH)

    def work(pair: Pair, steps: list[Tensor]) -> None:
        for lookups in steps:
            pair.fused(lookups).backward(gradient)

    threads = [threading.Thread(target=work, args=each) for each in zip(pairs, inputs, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pair, steps in zip(pairs, inputs, strict=True):
        for lookups in steps:
            pair.plain(lookups).backward(gradient)
            pair.plain_optimizer.step()
            pair.plain_optimizer.zero_grad()
        pair.check()


@pytest.mark.parametrize("rounding", ["stochastic", "split"])
@pytest.mark.parametrize("mode", MODES)
def test_tables_of_16_bits(rounding: str, mode: str, device: str) -> None:
    """The sums are not rounded on the way; whole numbers are exact in the gradient, too."""
    module = bags(mode, dtype=torch.bfloat16)
    fused = ours("adagrad", module.parameters(), rounding=rounding, seed=3)
    optim.fuse_in_backward(fused, module)
    plain = copy.deepcopy(module)
    other = ours("adagrad", plain.parameters(), rounding=rounding, seed=3)
    for _ in range(STEPS):
        lookups, gradient = torch.randperm(ROWS)[:8].view(4, 2), eighths(4, WIDTH).bfloat16()
        module(lookups).backward(gradient)
        plain(lookups).backward(gradient)
        if mode == "max":
            rows = lookups.unique()
            plain.weight.grad = sparse(rows, plain.weight.grad[rows], ROWS)
        other.step()
        other.zero_grad()
    assert torch.equal(module.weight, plain.weight)


def test_a_compiled_model_gives_a_dense_gradient(device: str) -> None:
    module = myemb.nn.Embedding(ROWS, WIDTH)
    plain = copy.deepcopy(module)
    optimizer, other = (optim.SGD(m.parameters(), lr=0.5) for m in (module, plain))
    optim.fuse_in_backward(optimizer, module)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    lookups, gradient = indices("zipf", 30, ROWS), eighths(30, WIDTH)
    compiled(lookups).backward(gradient)
    assert module.weight.grad is None
    plain(lookups).backward(gradient)
    other.step()
    assert torch.equal(module.weight, plain.weight)
