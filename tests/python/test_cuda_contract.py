"""What the host code of the CUDA operators promises, and that the simulator would notice.

An operator allocates only tensors, reads nothing back and waits for nothing, so that it runs in any
stream and can be captured in a CUDA graph. Every test on a simulated GPU fails on a report: a race,
an access outside of an allocation, a read of memory that nobody wrote, a byte of an output that is
left out, a call that waits for the GPU. Here one of each is provoked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import simulator
import torch
from gpus import needs_cudasim
from inputs import whole_numbers
from torch import Tensor

pytestmark = needs_cudasim
ops = torch.ops.myemb
ROWS, WIDTH, BAGS = 50, 12, 3


def calls(device: str, size: int = 600) -> dict[str, Callable[[], Any]]:
    """A call of each operator, in each mode, with ``size`` lookups."""
    weight = whole_numbers(ROWS, WIDTH, device=device)
    rows = torch.randint(ROWS, (size,), device=device)
    starts = torch.tensor([0, 10, 10], device=device)
    factors = torch.ones(size, device=device)
    upstream, bag_upstream = weight[rows], weight[:BAGS].clone()
    positions = ops.embedding_bag_max(weight, rows, starts, None, False, None)[1]
    made: dict[str, Callable[[], Any]] = {
        "embedding": lambda: ops.embedding(weight, rows, 3),
        "embedding_dense_backward": lambda: ops.embedding_dense_backward(
            upstream, rows, ROWS, 3, True
        ),
        "embedding_renorm_": lambda: ops.embedding_renorm_(weight.clone(), rows, 1.0, 2.0),
        "embedding_bag_max": lambda: ops.embedding_bag_max(weight, rows, starts, factors, False, 3),
        "checked_offsets": lambda: ops.checked_offsets(starts, size, False),
    }
    made |= update_calls(weight, rows, upstream) | table_calls(weight, rows, factors)
    for mode in (0, 1, 2):
        found = positions if mode == 2 else None
        made |= {
            f"embedding_bag {mode}": lambda mode=mode: ops.embedding_bag(
                weight, rows, starts, False, mode, False, factors, False, 3
            ),
            f"embedding_bag_dense_backward {mode}": (
                lambda mode=mode, found=found: ops.embedding_bag_dense_backward(
                    bag_upstream, rows, starts, found, ROWS, True, mode, factors, False, 3
                )
            ),
            f"embedding_bag_per_sample_weights_backward {mode}": (
                lambda mode=mode, found=found: ops.embedding_bag_per_sample_weights_backward(
                    bag_upstream, weight, rows, starts, found, mode, False, 3
                )
            ),
        }
        if mode != 2:
            made[f"embedding_bag_sparse_backward {mode}"] = lambda mode=mode: (
                ops.embedding_bag_sparse_backward(
                    bag_upstream, rows, starts, ROWS, True, mode, factors, False, 3
                )
            )
    return made


def update_calls(weight: Tensor, rows: Tensor, upstream: Tensor) -> dict[str, Callable[[], Any]]:
    """A step of an elementwise rule and of a row-wise one, by each kind of gradient."""
    table, column = weight.clone(), rows.view(-1, 1)
    sparse = torch.sparse_coo_tensor(
        rows.view(1, -1), upstream, table.shape, check_invariants=False
    )
    made: dict[str, Callable[[], Any]] = {}
    for rule, state in (("sgd", []), ("row_wise_adagrad", [table[:, 0].clone()])):
        options = {"rule": rule, "lr": 0.1}
        for kind, grad, lookups in (
            ("dense", weight, {}),
            ("sparse", sparse, {}),
            ("lookups", upstream, {"indices": column, "bag_mode": 1, "padding_idx": 3}),
        ):
            made[f"embedding_update_ {rule} {kind}"] = (
                lambda grad=grad, state=state, call=options | lookups: ops.embedding_update_(
                    table, state, grad, **call
                )
            )
    return made


def table_calls(weight: Tensor, rows: Tensor, factors: Tensor) -> dict[str, Callable[[], Any]]:
    """Three features that read two tables of one width; some bags are long."""
    device, half, size = rows.device, len(rows) // 2, len(rows)
    starts = torch.tensor(
        [0, 10, 10, half, half + 5, half + 5, size - 20, size - 10, size - 5, size], device=device
    )
    weights, features, padding = [weight, weight.clone()], [0, 1, 0], [3, -1]
    upstream = weight[:BAGS].repeat(1, len(features))
    layout = ([ROWS] * 2, [WIDTH] * 2, [6] * 2, features)  # 6: float32
    made: dict[str, Callable[[], Any]] = {}
    for mode in (0, 1, 2):
        modes, some = [mode] * 2, None if mode == 1 else factors
        found = None
        if mode == 2:
            _, found = ops.embedding_bag_tables_max(weights, rows, starts, features, modes)
        backward = (upstream, rows, starts, found)
        made |= {
            f"embedding_bag_tables {mode}": lambda modes=modes: ops.embedding_bag_tables(
                weights, rows, starts, features, modes, factors, padding
            ),
            f"embedding_bag_tables_backward {mode}": (
                lambda modes=modes, some=some, backward=backward: ops.embedding_bag_tables_backward(
                    *backward, *layout, modes, some, padding, [], [0, 1]
                )
            ),
            f"embedding_bag_tables_per_sample_weights_backward {mode}": (
                lambda modes=modes, found=found: (
                    ops.embedding_bag_tables_per_sample_weights_backward(
                        upstream, weights, rows, starts, found, features, modes, padding
                    )
                )
            ),
        }
    made["embedding_bag_tables_max"] = lambda: ops.embedding_bag_tables_max(
        weights, rows, starts, features, [2, 2], factors, padding
    )
    updated = [each.clone() for each in weights]
    for rule, state in (
        ("sgd", []),
        ("row_wise_adagrad", [each[:, 0].clone() for each in weights]),
    ):
        made[f"embedding_bag_tables_update_ {rule}"] = lambda rule=rule, state=state: (
            ops.embedding_bag_tables_update_(
                *(updated, state, upstream, rows, starts, None, features, [0, 0], None, padding),
                [0, 1],
                rule=rule,
                lr=0.1,
            )
        )
    return made


NAMES = tuple(calls("cpu"))


def test_every_operator_is_called_here() -> None:
    registered = {
        name.removeprefix("myemb::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("myemb::")
    }
    registered.remove("coalesce")  # waits for the size of its result (test_coalesce.py)
    assert {name.split()[0] for name in NAMES} == registered


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", simulator.ARCHITECTURES)
def test_an_operator_launches_kernels_and_leaves_no_report(name: str, arch: int) -> None:
    call = calls("cpu")[name]
    with simulator.simulation(arch) as cudasim:
        call()
        done = cudasim.calls()
    assert {each["op"] for each in done} == {name.split()[0]}
    launches = [launch for each in done for launch in each["launches"]]
    assert launches
    for launch in launches:
        assert re.search("myemb::cuda::|cub::", launch["kernel"])


# The kernels of an operator, CUB's included, for 200 lookups, which are never more than a chunk,
# for 600, and for 6000, which CUB sorts in several passes. docs/cuda.md says what they are.
LAUNCHES = {
    "embedding": (1, 1, 1),
    "embedding_dense_backward": (3, 5, 7),
    "embedding_renorm_": (3, 3, 5),
    "embedding_bag_max": (1, 3, 3),
    "checked_offsets": (1, 1, 1),
    "embedding_bag 0": (1, 3, 3),
    "embedding_bag 1": (1, 3, 3),
    "embedding_bag 2": (1, 3, 3),
    "embedding_bag_dense_backward 0": (5, 7, 9),
    "embedding_bag_dense_backward 1": (6, 9, 11),
    "embedding_bag_dense_backward 2": (6, 8, 10),
    "embedding_bag_sparse_backward 0": (6, 6, 8),
    "embedding_bag_sparse_backward 1": (7, 8, 10),
    "embedding_bag_per_sample_weights_backward 0": (3, 3, 3),
    "embedding_bag_per_sample_weights_backward 1": (4, 5, 5),
    "embedding_bag_per_sample_weights_backward 2": (3, 3, 3),
    "embedding_update_ sgd dense": (1, 1, 1),
    "embedding_update_ sgd sparse": (3, 5, 7),
    "embedding_update_ sgd lookups": (4, 7, 9),
    "embedding_update_ row_wise_adagrad dense": (2, 2, 2),
    "embedding_update_ row_wise_adagrad sparse": (4, 6, 8),
    "embedding_update_ row_wise_adagrad lookups": (5, 8, 10),
    # Of tables that have dtype, width and mode in common, however many they are.
    "embedding_bag_tables 0": (2, 4, 4),
    "embedding_bag_tables 1": (2, 4, 4),
    "embedding_bag_tables 2": (2, 4, 4),
    "embedding_bag_tables_max": (2, 4, 4),
    "embedding_bag_tables_backward 0": (4, 6, 8),
    "embedding_bag_tables_backward 1": (5, 8, 10),
    "embedding_bag_tables_backward 2": (5, 7, 9),
    "embedding_bag_tables_per_sample_weights_backward 0": (2, 2, 2),
    "embedding_bag_tables_per_sample_weights_backward 1": (3, 4, 4),
    "embedding_bag_tables_per_sample_weights_backward 2": (2, 2, 2),
    "embedding_bag_tables_update_ sgd": (4, 6, 8),
    "embedding_bag_tables_update_ row_wise_adagrad": (5, 7, 9),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", simulator.ARCHITECTURES)
def test_the_number_of_kernels(name: str, arch: int) -> None:
    counts = []
    for size in (200, 600, 6000):
        call = calls("cpu", size)[name]
        with simulator.simulation(arch) as cudasim:
            call()
            counts.append(len(cudasim.launches()))
    assert tuple(counts) == LAUNCHES[name]


# What the host code may ask of ATen: memory, views, copies into another layout or dtype, and the
# parts of a sparse tensor.
HOST_CALLS = {"aten::contiguous", "aten::empty", "aten::reshape", "aten::to", "aten::view"}
HOST_CALLS |= {"aten::_indices", "aten::_values", "aten::dense_dim", "aten::sparse_dim"}
HOST_CALLS |= {"aten::select"}


@pytest.mark.parametrize("name", NAMES)
def test_host_code_only_prepares(name: str) -> None:
    """The simulator watches it while a DeviceCall lasts; this is the whole operator."""
    call = calls("cpu")[name]
    with (
        simulator.simulation(simulator.ARCHITECTURES[0]),
        torch.autograd.profiler.profile() as run,
        torch._C._AutoDispatchBelowAutograd(),
    ):
        call()
    events = run.function_events or []
    called = [event for event in events if event.name == f"myemb::{name.split()[0]}"]
    assert called
    assert {child.name for event in called for child in event.cpu_children} <= HOST_CALLS


# ---- the simulator notices -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "host_code",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x.equal(x),
        lambda x: bool(x[0, 0] > 0),
        lambda x: x.unique(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.cpu(),
        lambda x: x + 1,
        lambda x: x.zero_(),
    ],
)
def test_a_host_call_that_waits_or_computes(host_code: Callable[[Tensor], Any]) -> None:
    tensor = torch.ones(4, 3)
    simulator.module.clear()
    simulator.module.watch(lambda: host_code(tensor))
    reports = simulator.module.reports()
    simulator.module.clear()
    assert any("forbidden ATen call aten::" in report for report in reports)
    assert all("in the CUDA op watched" in report for report in reports)


def test_host_calls_that_only_prepare() -> None:
    tensor = torch.ones(4, 3)
    simulator.module.clear()
    for host_code in (
        lambda: tensor.t().contiguous(),
        lambda: tensor[1:, ::2].reshape(-1),
        lambda: torch.empty_like(tensor).copy_(tensor.expand(4, 3)),
        lambda: tensor.to(torch.int64).view(-1).unsqueeze(0),
        lambda: torch.empty(3, 4),
    ):
        simulator.module.watch(host_code)
    assert simulator.module.reports() == []


def lookup_kernels(arch: int) -> list[str]:
    names = [name for name in simulator.module.kernels(arch) if "lookup" in name]
    assert names
    return names


def change_lookups(arch: int, change: Callable[[str], str]) -> None:
    for name in lookup_kernels(arch):
        before = simulator.module.kernel_ptx(arch, name)
        simulator.module.replace_kernel(arch, name, change(before))


@pytest.fixture
def arch() -> Any:
    yield simulator.ARCHITECTURES[0]
    simulator.module.restore_kernels()


def test_an_output_that_is_not_written(arch: int) -> None:
    change_lookups(arch, lambda text: re.sub(r"\{.*\}", "{ ret; }", text, flags=re.DOTALL))
    with (
        pytest.raises(AssertionError, match=r"embedding: 48 of the 48 bytes of an output"),
        simulator.simulation(arch),
    ):
        ops.embedding(torch.ones(3, 12), torch.tensor([1]))
    simulator.module.restore_kernels()
    with simulator.simulation(arch):
        ops.embedding(torch.ones(3, 12), torch.tensor([1]))


def test_memory_from_elsewhere_counts_as_the_gpus(arch: int) -> None:
    numpy = pytest.importorskip("numpy")
    weight = torch.from_numpy(numpy.ones((3, 12), dtype=numpy.float32))
    with simulator.simulation(arch):
        assert torch.equal(ops.embedding(weight, torch.tensor([1])), torch.ones(1, 12))


def test_an_assertion_is_an_exception_and_the_next_call_works(arch: int) -> None:
    weight = torch.ones(3, 12)
    with simulator.simulation(arch):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="myemb::embedding: index out of range"):
                ops.embedding(weight, torch.tensor([0, 3]))
            assert torch.equal(ops.embedding(weight, torch.tensor([1])), weight[:1])


def test_threads_take_turns(arch: int) -> None:
    weight = torch.randn(200, 16)
    lookups = [torch.randint(200, (50, 20)) for _ in range(20)]

    def bags(rows: Tensor) -> Tensor:
        return ops.embedding_bag(weight, rows, None, False, 0, False, None, False, 3)

    expected = [bags(rows) for rows in lookups]
    with simulator.simulation(arch), ThreadPoolExecutor(4) as threads:
        actual = list(threads.map(bags, lookups))
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_cpu_kernels_come_back(arch: int) -> None:
    weight, bad = torch.ones(3, 12), torch.tensor([7])
    with simulator.simulation(arch):
        pass
    with pytest.raises(IndexError, match="index 7 at position 0"):
        ops.embedding(weight, bad)
    assert simulator.module.calls() == []


def test_no_cuda_library_is_behind_the_simulator() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("binutils are not installed")
    symbols = subprocess.run(
        [nm, "--dynamic", "--undefined-only", simulator.module.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "_ZN" in symbols
    assert not re.findall(r"\bU (?:_*cuda\w+|cu[A-Z]\w+)", symbols)


def test_a_simulation_cannot_be_entered_twice(arch: int) -> None:
    enabled = simulator.module.enabled(arch, 0)
    with enabled, pytest.raises(RuntimeError, match="entered already"):
        enabled.__enter__()
