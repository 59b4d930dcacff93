"""Runs functions with the CUDA kernels, on a simulated GPU or a real one, and compares bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import simulator
import torch
from torch import Tensor

import myemb

Function = Callable[..., Sequence[Tensor]]

needs_cudasim = pytest.mark.skipif(not simulator.ARCHITECTURES, reason="_cudasim is not built")
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and myemb._C.has_cuda()),
    reason="torch sees no GPU, or myemb was built without CUDA",
)

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


def moved(value: Any, device: str) -> Any:
    """A copy on ``device`` with the strides and the offset that the tensor has, gaps included."""
    if not isinstance(value, Tensor):
        return value
    storage = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    copy = storage.to(device, copy=True)
    return copy.as_strided(value.size(), value.stride(), value.storage_offset())


@dataclasses.dataclass(frozen=True)
class Gpu:
    """``arch`` is that of the simulated GPU, None for the real one."""

    arch: int | None
    seed: int = 0

    def run(self, function: Function, *arguments: Any) -> list[Tensor]:
        """What ``function`` returns there, brought back."""
        if self.arch is None:
            on_gpu = [moved(argument, "cuda") for argument in arguments]
            return [result.detach().cpu() for result in function(*on_gpu)]
        copies = [moved(argument, "cpu") for argument in arguments]
        with simulator.simulation(self.arch, self.seed):
            return [result.detach() for result in function(*copies)]


def bits(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous().flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    return flat.view(INTEGERS[flat.element_size()])


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert actual.layout == expected.layout
    if actual.is_sparse:
        assert torch.equal(actual._indices(), expected._indices())
        actual, expected = actual._values(), expected._values()
    different = bits(actual) != bits(expected)
    assert not different.any(), (
        f"{int(different.sum())} of {different.numel()} differ, first at "
        f"{int(different.nonzero()[0])}: {actual.flatten()[different][:3].tolist()} "
        f"and not {expected.flatten()[different][:3].tolist()}"
    )


def compare(gpu: Gpu, function: Function, *arguments: Any) -> None:
    """The kernels of the GPU give the bits of the CPU's."""
    expected = function(*(moved(argument, "cpu") for argument in arguments))
    actual = gpu.run(function, *arguments)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same_bits(ours, theirs.detach())
