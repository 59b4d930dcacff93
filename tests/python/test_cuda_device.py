"""What only a real GPU shows: streams, several devices, CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from gpus import assert_same_bits, needs_gpu
from inputs import indices
from test_cuda_bits import bags, lookup, renormed
from test_cuda_contract import NAMES, calls
from torch import Tensor

from myemb.functional import embedding, embedding_bag

pytestmark = [pytest.mark.cuda, needs_gpu]
ops = torch.ops.myemb
modes = pytest.mark.parametrize("mode", [0, 1, 2], ids=["sum", "mean", "max"])


def arguments(device: str = "cpu") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    made = {
        "weight": torch.randn(300, 24, generator=generator),
        "rows": indices("zipf", 2000, 300),
        "starts": torch.tensor([0, 10, 10, 900]),
        "upstream": torch.randn(2000, 24, generator=generator),
        "factors": torch.randn(2000, generator=generator),
    }
    return {name: tensor.to(device) for name, tensor in made.items()}


def every_operator(
    mode: int,
    weight: Tensor,
    rows: Tensor,
    starts: Tensor,
    upstream: Tensor,
    factors: Tensor,
) -> list[Tensor]:
    return [
        *lookup(weight, rows, upstream, 3),
        *bags(weight, rows, starts, upstream[:4], factors, mode, 3),
        *renormed(weight.clone(), rows, 1.0, 2.0),
    ]


@modes
def test_a_side_stream(mode: int) -> None:
    """The arguments are written late in that stream: who reads them in another one comes early."""
    source = arguments()
    expected = every_operator(mode, **source)
    late = {name: torch.zeros_like(tensor, device="cuda") for name, tensor in source.items()}
    on_gpu = {name: tensor.cuda() for name, tensor in source.items()}
    every_operator(mode, **on_gpu)  # loads the kernels, which takes its time
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        for name, tensor in late.items():
            tensor.copy_(on_gpu[name])
        results = every_operator(mode, **late)
        assert not stream.query(), "the sleep is over: this shows nothing"
    stream.synchronize()
    for ours, theirs in zip(results, expected, strict=True):
        assert_same_bits(ours.cpu(), theirs)


@modes
def test_a_device_that_is_not_the_current_one(mode: int) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    expected = every_operator(mode, **arguments())
    assert torch.cuda.current_device() == 0
    results = every_operator(mode, **arguments("cuda:1"))
    assert torch.cuda.current_device() == 0
    for ours, theirs in zip(results, expected, strict=True):
        assert str(ours.device) == "cuda:1"
        assert_same_bits(ours.cpu(), theirs)


def test_two_devices_in_one_call() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        ops.embedding(torch.ones(3, 2, device="cuda:0"), torch.tensor([1], device="cuda:1"))


def test_indices_on_the_host() -> None:
    for function in (embedding, embedding_bag):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            function(torch.tensor([[1]]), torch.ones(3, 2, device="cuda"))


@modes
def test_a_cuda_graph(mode: int) -> None:
    """Captured with one set of arguments, replayed with others of the same shapes."""
    static = arguments("cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        every_operator(mode, **static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = every_operator(mode, **static)
    for seed in (4, 5):
        torch.manual_seed(seed)
        source = arguments()
        source["rows"] = torch.randint(300, (2000,))
        source["starts"] = torch.tensor([0, 3, 700, 1999])
        source["upstream"] = torch.randn(2000, 24)
        expected = every_operator(mode, **source)
        for name, tensor in source.items():
            static[name].copy_(tensor)
        graph.replay()
        torch.cuda.synchronize()
        for ours, theirs in zip(results, expected, strict=True):
            assert_same_bits(ours.cpu(), theirs)


def test_training_in_a_cuda_graph() -> None:
    """Forward, backward and the optimizer's step, with gradients that stay where they are."""
    weight = torch.randn(50, 8, device="cuda", requires_grad=True)
    start = weight.detach().clone()
    rows = torch.randint(50, (6, 4), device="cuda")
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        embedding_bag(rows, weight, mode="sum").square().sum().backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        weight.copy_(start)
    graph.replay()
    torch.cuda.synchronize()
    expected = start.cpu().requires_grad_()
    embedding_bag(rows.cpu(), expected, mode="sum").square().sum().backward()
    assert expected.grad is not None
    torch.testing.assert_close(weight.detach().cpu(), (expected - 0.5 * expected.grad).detach())


@pytest.mark.parametrize("name", NAMES)
def test_no_operator_waits(name: str) -> None:
    call = calls("cuda")[name]
    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@pytest.mark.parametrize(
    ("rows", "width"), [(2**24 + 8, 160), (2**32 + 8, 1)], ids=["elements", "rows"]
)
def test_a_table_beyond_32_bits(rows: int, width: int) -> None:
    """Of more than 2^31 elements, or more than 2^32 rows, whose numbers are sorted in 64 bits."""
    size = 2 * rows * width
    if torch.cuda.mem_get_info()[0] < 3 * size:
        pytest.skip(f"needs {3 * size >> 30} GiB of the GPU")
    weight = torch.zeros(rows, width, dtype=torch.float16, device="cuda")
    last = torch.randint(-8, 8, (4, width)).half().cuda()
    weight[-4:] = last
    lookups = torch.tensor([rows - 1, 0, rows - 4, rows - 2, rows - 1, rows - 3], device="cuda")
    expected = torch.stack([last[3], 0 * last[0], last[0], last[2], last[3], last[1]])
    weight.requires_grad_()
    found = embedding(lookups, weight)
    assert torch.equal(found, expected)
    assert torch.equal(
        embedding_bag(lookups.view(2, 3), weight, mode="sum"), expected.view(2, 3, -1).sum(1)
    )
    upstream = torch.randint(-8, 8, found.shape).half().cuda()
    (gradient,) = torch.autograd.grad(found, weight, upstream)
    of_last = torch.stack([upstream[2], upstream[5], upstream[3], upstream[0] + upstream[4]])
    assert torch.equal(gradient[-4:], of_last)
    assert torch.equal(gradient[0], upstream[1])
    assert torch.equal(gradient[:-4].count_nonzero(), upstream[1].count_nonzero())
    del gradient
    weight = weight.detach()
    ops.embedding_update_(weight, [], upstream, lookups.view(-1, 1), rule="sgd", lr=1.0)
    assert torch.equal(weight[-4:], last - of_last)
    assert torch.equal(weight[0], -upstream[1])
    norms = weight[-4:].float().norm(dim=1)
    ops.embedding_renorm_(weight, lookups, 0.5)
    torch.testing.assert_close(
        weight[-4:].float().norm(dim=1), norms.clamp(max=0.5), rtol=1e-3, atol=1e-3
    )
