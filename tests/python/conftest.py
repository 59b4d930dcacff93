"""Fixtures and builders of inputs that every test file shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import simulator
import torch
from gpus import Gpu, needs_gpu
from hypothesis import HealthCheck, settings

settings.register_profile(
    "myemb",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("myemb")

# The CUDA kernels run on the simulator for the oldest GPU they are built for, and in tests that ask
# for "every cudasim" for the newest, too.
OLDEST = [f"cudasim-{arch}" for arch in simulator.ARCHITECTURES[:1]]
EVERY = [f"cudasim-{arch}" for arch in simulator.ARCHITECTURES]
KINDS = {"cpu": ["cpu"], "cudasim": OLDEST, "every cudasim": EVERY, "cuda": ["cuda"]}


def pytest_report_header() -> str:
    if not simulator.ARCHITECTURES:
        return "cudasim: not built (it needs nvcc): the CUDA kernels are not tested without a GPU"
    return f"cudasim: {', '.join(EVERY)} from {simulator.module.__file__}"


def parameters(names: list[str]) -> list[Any]:
    marks = [pytest.mark.cuda, needs_gpu]
    return [pytest.param(name, marks=marks) if name == "cuda" else name for name in names]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives ``device`` its values: all kinds of device, or those that the test's marker names."""
    if "device" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("devices")
        assert marker is None or marker.kwargs["why"]
        kinds = marker.args if marker else ("cpu", "cudasim", "cuda")
        names = [name for kind in kinds for name in KINDS[kind]]
        metafunc.parametrize("device", parameters(names), indirect=True)
    if "gpu" in metafunc.fixturenames:
        metafunc.parametrize("gpu", parameters([*EVERY, "cuda"]), indirect=True)


def architecture(name: str) -> int | None:
    """Of a simulated GPU."""
    return int(name.removeprefix("cudasim-")) if name.startswith("cudasim-") else None


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a test puts its tensors. On the simulator they are CPU tensors."""
    arch = architecture(request.param)
    if arch is None:
        yield request.param
        return
    with simulator.simulation(arch, simulator.seed_of(request.node.nodeid)):
        yield "cpu"


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Gpu:
    """What runs the CUDA kernels for a test that compares them with the CPU's."""
    return Gpu(architecture(request.param), simulator.seed_of(request.node.nodeid))


@pytest.fixture
def no_vmap_fallback() -> Iterator[None]:
    """vmap's loop over the elements is an error: there are rules for everything."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """torch.compile knows nothing of other tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def no_graph_caches(fresh_compiler: None) -> Iterator[None]:
    """Nothing is taken from caches of graphs, which know torch's version and not ours."""
    torch._dynamo.utils.counters.clear()
    settings = torch._inductor.config.patch(fx_graph_cache=False)
    with settings, torch._functorch.config.patch(enable_autograd_cache=False):
        yield


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(20)
    yield
    torch.set_num_threads(threads)
