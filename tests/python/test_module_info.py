"""What PyTorch's generic tests ask of every module, of these: its ModuleInfos with another class.

Outputs, gradients and errors are in test_opinfo.py.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.testing._internal.common_modules import module_db

from myemb import nn

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


class Sample:
    """One way to make and call a module."""

    def __init__(self, name: str, made: Any, passed: Any) -> None:
        self.name, self.made, self.passed = name, made, passed

    def make(self, library: Any, device: Any, dtype: torch.dtype) -> torch.nn.Module:
        module: torch.nn.Module = getattr(library, self.name)(
            *self.made.args, **self.made.kwargs, device=device, dtype=dtype
        )
        return module

    def call(self, module: Callable[..., Tensor]) -> Tensor:
        return module(*self.passed.args, **self.passed.kwargs)


class Arguments:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


def samples(device: str) -> Iterator[Sample]:
    """PyTorch's, which are of Embedding only, and of EmbeddingBag one of each form."""
    (info,) = [info for info in module_db if info.module_cls is torch.nn.Embedding]
    for sample in info.module_inputs_func(
        info, device=device, dtype=torch.float64, requires_grad=False, training=True
    ):
        yield Sample("Embedding", sample.constructor_input, sample.forward_input)
    rows = torch.tensor([[3, 0, 2], [1, 1, 0]], device=device)
    starts = torch.tensor([0, 2, 2, 6], device=device)
    for mode in ("sum", "mean", "max"):
        yield Sample("EmbeddingBag", Arguments(4, 3, mode=mode), Arguments(rows.t()))
        last = Arguments(4, 3, mode=mode, include_last_offset=True, padding_idx=1)
        yield Sample("EmbeddingBag", last, Arguments(rows.flatten(), starts))


def each(test: Callable[[Sample, str], None]) -> Callable[[str], None]:
    def run(device: str) -> None:
        count = 0
        for sample in samples(device):
            test(sample, device)
            count += 1
        assert count >= 8

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@each
def test_factory_arguments(sample: Sample, device: str) -> None:
    for dtype in DTYPES:
        for parameter in sample.make(nn, device, dtype).parameters():
            assert parameter.dtype == dtype and parameter.device.type == torch.device(device).type
    for parameter in sample.make(nn, "meta", torch.float32).parameters():
        assert parameter.is_meta
    with torch.device("meta"):
        assert getattr(nn, sample.name)(4, 3).weight.is_meta


@each
def test_moves_of_dtype_and_device(sample: Sample, device: str) -> None:
    module = sample.make(nn, device, torch.float64)
    for dtype in DTYPES:
        assert sample.call(module.to(dtype)).dtype == dtype
    theirs = sample.make(torch.nn, device, torch.float64)
    theirs.load_state_dict(module.double().state_dict())
    empty = sample.make(nn, "meta", torch.float64).to_empty(device=device)
    empty.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(sample.call(empty), sample.call(theirs))
    assigned = sample.make(nn, "meta", torch.float64)
    assigned.load_state_dict(theirs.state_dict(), assign=True)
    torch.testing.assert_close(sample.call(assigned), sample.call(theirs))


@each
def test_copies(sample: Sample, device: str) -> None:
    module = sample.make(nn, device, torch.float32)
    expected = sample.call(module)
    for twin in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is type(module) and repr(twin) == repr(module)
        assert torch.equal(sample.call(twin), expected)


@each
def test_memory_formats_of_the_table(sample: Sample, device: str) -> None:
    """PyTorch's tests ask it of inputs; of a table, too, it is a matter of speed alone."""
    module = sample.make(nn, device, torch.float64)
    expected = sample.call(module)
    weight = module.weight
    assert isinstance(weight, Tensor)
    padded = torch.cat([weight.detach(), weight.detach()], 1)
    for other in (weight.detach().t().contiguous().t(), padded[:, : weight.size(1)]):
        assert not other.is_contiguous()
        leaf = other.requires_grad_()
        output = functional_call(module, {"weight": leaf}, sample.passed.args, sample.passed.kwargs)
        assert torch.equal(output, expected)
        upstream = torch.randn_like(output)
        assert torch.equal(
            torch.autograd.grad(output, leaf, upstream)[0],
            torch.autograd.grad(expected, weight, upstream, retain_graph=True)[0],
        )


@each
def test_training_and_evaluation_do_not_differ(sample: Sample, device: str) -> None:
    module = sample.make(nn, device, torch.float32)
    assert torch.equal(sample.call(module.train()), sample.call(module.eval()))


@each
def test_gradcheck_and_gradgradcheck(sample: Sample, device: str) -> None:
    module = sample.make(nn, device, torch.float64)
    weight = module.weight
    assert isinstance(weight, Tensor)

    def call(weight: Tensor) -> Tensor:
        output: Tensor = functional_call(
            module, {"weight": weight}, sample.passed.args, sample.passed.kwargs
        )
        return output

    assert gradcheck(call, weight, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(call, weight, fast_mode=True, check_fwd_over_rev=True)


@each
def test_parametrized_and_normalised(sample: Sample, device: str) -> None:
    outputs = []
    state = None
    for library in (nn, torch.nn):
        module = sample.make(library, device, torch.float64)
        state = state or copy.deepcopy(module.state_dict())
        module.load_state_dict(state)
        torch.nn.utils.parametrizations.weight_norm(module)
        assert parametrize.is_parametrized(module, "weight")
        output = sample.call(module)
        output.pow(2).sum().backward()
        outputs.append([output, *(parameter.grad for parameter in module.parameters())])
    # (The row of padding is zero: its norm has no derivative, in either.)
    torch.testing.assert_close(outputs[0], outputs[1], equal_nan=True)
