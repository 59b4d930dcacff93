"""The samples that PyTorch ships to test its own operators and modules, driven through myemb."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inputs import FLOAT_DTYPES, assert_near
from simulator import fatal_on_a_gpu, refused
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.testing._internal.opinfo.core import SampleInput

from myemb import nn
from myemb.functional import embedding, embedding_bag

OPINFOS = {op.name: op for op in op_db if op.name.startswith("nn.functional.embedding")}
MODULES = {
    info.module_cls: info
    for info in module_db
    if info.module_cls in (torch.nn.Embedding, torch.nn.EmbeddingBag)
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "nn.functional.embedding": embedding,
    "nn.functional.embedding_bag": embedding_bag,
}
OURS = {torch.nn.Embedding: nn.Embedding, torch.nn.EmbeddingBag: nn.EmbeddingBag}


def test_pytorch_still_ships_the_samples() -> None:
    assert OPINFOS.keys() == FUNCTIONS.keys()
    assert torch.nn.Embedding in MODULES


def copied(value: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy that max_norm may change, still a leaf if it was one."""
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().clone()
    if dtype is not None and copy.is_floating_point():
        copy = copy.to(dtype)
    return copy.requires_grad_(value.requires_grad)


def samples(name: str, device: str, dtype: torch.dtype, requires_grad: bool) -> Iterator[Any]:
    found = list(OPINFOS[name].sample_inputs(device, dtype, requires_grad=requires_grad))
    assert len(found) >= 3
    yield from found


def call(
    function: Callable[..., Tensor], sample: Any, dtype: torch.dtype | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The output, and the floating point arguments as they are after the call."""
    weight, (lookups,) = copied(sample.input, dtype), sample.args
    options = {name: copied(value, dtype) for name, value in sample.kwargs.items()}
    output = function(lookups, weight, **options)
    leaves = [weight, *(value for value in options.values() if isinstance(value, Tensor))]
    return output, [leaf for leaf in leaves if leaf.is_floating_point()]


def original(name: str) -> Callable[..., Tensor]:
    return getattr(F, name.split(".")[-1])  # type: ignore[no-any-return]


def compare(actual: Sequence[Tensor], expected: Sequence[Tensor], sample: Any) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        # the samples hold numbers up to 9
        assert_near(ours, theirs, terms=sample.args[0].numel(), scale=81.0)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_outputs(name: str, dtype: torch.dtype, device: str) -> None:
    for sample in samples(name, device, dtype, requires_grad=False):
        output, after = call(FUNCTIONS[name], sample)
        _, expected_after = call(original(name), sample, torch.float64)
        compare(after, expected_after, sample)
        # max_norm has rounded the table by now: what follows is the lookup in what is left of it.
        rest = SampleInput(after[0], args=sample.args, kwargs=sample.kwargs | {"max_norm": None})
        expected, _ = call(original(name), rest, torch.float64)
        compare([output], [expected], sample)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_gradients(name: str, dtype: torch.dtype, device: str) -> None:
    for sample in samples(name, device, dtype, requires_grad=True):
        output, leaves = call(FUNCTIONS[name], sample)
        expected, expected_leaves = call(original(name), sample, torch.float64)
        upstream = torch.randn_like(output)
        actual = torch.autograd.grad(output, leaves, upstream)
        theirs = torch.autograd.grad(expected, expected_leaves, upstream.double())
        compare(actual, theirs, sample)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_the_samples_without_derivatives(name: str, device: str) -> None:
    """Padding, frequencies, sparse gradients: PyTorch keeps them from gradcheck, not from us."""
    compared = 0
    for sample in samples(name, device, torch.float64, requires_grad=False):
        options = sample.kwargs
        if options.get("sparse") and options.get("scale_grad_by_freq"):
            continue  # PyTorch has no such gradient of a lookup; test_embedding.py has
        for value in (sample.input, options.get("per_sample_weights")):
            if value is not None:
                value.requires_grad_()
        output, leaves = call(FUNCTIONS[name], sample)
        expected, expected_leaves = call(original(name), sample)
        upstream = torch.randn_like(output)
        actual = torch.autograd.grad(output, leaves, upstream)
        theirs = torch.autograd.grad(expected, expected_leaves, upstream)
        for ours, reference in zip(actual, theirs, strict=True):
            assert ours.layout == reference.layout
            torch.testing.assert_close(ours.to_dense(), reference.to_dense())
        compared += 1
    assert compared >= 8


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors(name: str, device: str) -> None:
    if OPINFOS[name].error_inputs_func is None:
        pytest.skip("PyTorch ships no bad input for this operator")
    for error in OPINFOS[name].error_inputs(device):
        with pytest.raises(error.error_type, match=error.error_regex):
            call(FUNCTIONS[name], error.sample_input)


@pytest.mark.parametrize("original", MODULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("training", [False, True])
def test_modules(
    original: type[torch.nn.Module], dtype: torch.dtype, training: bool, device: str
) -> None:
    info = MODULES[original]
    inputs = info.module_inputs_func(
        info, device=device, dtype=dtype, requires_grad=True, training=training
    )
    assert inputs
    for sample in inputs:
        made, passed = sample.constructor_input, sample.forward_input
        theirs = original(*made.args, **made.kwargs, device=device, dtype=dtype).train(training)
        theirs = theirs.double()
        ours = OURS[original](*made.args, **made.kwargs, device=device, dtype=dtype)
        ours.train(training).load_state_dict(theirs.state_dict())
        output = ours(*passed.args, **passed.kwargs)
        expected = theirs(*passed.args, **passed.kwargs)
        assert_near(output, expected)
        upstream = torch.randn_like(output)
        output.backward(upstream)
        expected.backward(upstream.double())
        assert_near(ours.weight.grad, theirs.weight.grad, terms=passed.args[0].numel(), scale=9.0)


@fatal_on_a_gpu
@pytest.mark.parametrize("original", MODULES)
def test_module_errors(original: type[torch.nn.Module], device: str) -> None:
    info = MODULES[original]
    if info.module_error_inputs_func is None:
        pytest.skip("PyTorch ships no bad input for this module")
    for error in info.module_error_inputs_func(
        info, device=device, dtype=torch.float32, requires_grad=False, training=False
    ):
        sample = error.module_error_input
        made, passed = sample.constructor_input, sample.forward_input
        if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                OURS[original](*made.args, **made.kwargs)
            continue
        module = OURS[original](*made.args, **made.kwargs, device=device)
        with refused(error.error_type, error.error_regex, "index out of range"):
            module(*passed.args, **passed.kwargs)
