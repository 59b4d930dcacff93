"""Derivatives of every order and mode, and torch.func over both operators."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import reference
import torch
from inputs import MODES, indices
from torch import Tensor
from torch._vmap_internals import _vmap
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from myemb import nn
from myemb.functional import embedding, embedding_bag

pytestmark = pytest.mark.usefixtures("no_vmap_fallback")
LOOKUPS = torch.tensor([4, 1, 1, 0, 5, 1, 3])
OFFSETS = torch.tensor([0, 3, 3, 5])


def table(device: str, *shape: int) -> Tensor:
    """Distinct values, so that a small step never changes which of them is the largest."""
    shape = shape or (6, 3)
    size = torch.Size(shape).numel()
    return (torch.randperm(size, device=device).double() / size - 0.5).view(shape)


def bag_arguments(name: str, device: str) -> tuple[Tensor, dict[str, Any]]:
    lookups, starts = LOOKUPS.to(device), OFFSETS.to(device)
    if name == "offsets":
        return lookups, {"offsets": starts}
    if name == "last":
        last = torch.tensor([7], device=device)
        return lookups, {"offsets": torch.cat([starts, last]), "include_last_offset": True}
    return lookups[:6].view(2, 3), {}


bag_forms = pytest.mark.parametrize("form", ["offsets", "last", "matrix"])
modes = pytest.mark.parametrize("mode", MODES)
paddings = pytest.mark.parametrize("padding_idx", [None, 1])


@paddings
def test_gradcheck_of_a_lookup(padding_idx: int | None, device: str) -> None:
    lookups = LOOKUPS[:6].view(2, 3).to(device)
    counted = torch.ones(2, 3, 1, device=device, dtype=torch.float64)
    if padding_idx is not None:  # its row is returned, yet has no derivative: leave it out
        counted = (lookups != padding_idx).double().unsqueeze(-1)

    def function(weight: Tensor) -> Tensor:
        return embedding(lookups, weight, padding_idx) * counted

    weight = table(device).requires_grad_()
    assert gradcheck(function, weight, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, weight, check_batched_grad=True, check_fwd_over_rev=True)


@modes
@bag_forms
@paddings
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck_of_bags(
    mode: str, form: str, padding_idx: int | None, weighted: bool, device: str
) -> None:
    lookups, options = bag_arguments(form, device)

    def function(weight: Tensor, factors: Tensor | None = None) -> Tensor:
        return embedding_bag(
            lookups,
            weight,
            mode=mode,
            per_sample_weights=factors,
            padding_idx=padding_idx,
            **options,
        )

    leaves = [table(device).requires_grad_()]
    if weighted:
        leaves.append((table(device, lookups.numel()) + 1).view(lookups.shape).requires_grad_())
    assert gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, leaves, check_batched_grad=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@paddings
def test_second_derivatives_scaled_by_frequency(
    mode: str, sparse: bool, weighted: bool, padding_idx: int | None, device: str
) -> None:
    """Numerical derivatives know nothing of the scaling, the reference does."""
    lookups, starts = LOOKUPS.to(device), OFFSETS.to(device)
    options = {"mode": mode, "scale_grad_by_freq": True, "padding_idx": padding_idx}
    upstream = torch.randn(4, 3, dtype=torch.float64, device=device)
    direction = torch.randn(6, 3, dtype=torch.float64, device=device)
    weight, factors = table(device), torch.randn(7, dtype=torch.float64, device=device)

    def second(function: Callable[..., Tensor], **more: Any) -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in (weight, upstream, factors)]
        weights = leaves[2] if weighted else None
        output = function(leaves[0], weights, **options, **more)
        (first,) = torch.autograd.grad(output, leaves[0], leaves[1], create_graph=True)
        first = first.to_dense() if first.is_sparse else first
        return torch.autograd.grad(first, leaves[1 : 2 + weighted], direction)

    actual = second(
        lambda w, p, **o: embedding_bag(lookups, w, starts, per_sample_weights=p, **o),
        sparse=sparse,
    )
    expected = second(
        lambda w, p, **o: reference.bag(w, lookups, starts, per_sample_weights=p, **o)
    )
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("scale_grad_by_freq", [False, True])
@paddings
def test_second_derivatives_of_a_lookup(
    sparse: bool, scale_grad_by_freq: bool, padding_idx: int | None, device: str
) -> None:
    lookups, weight = LOOKUPS.to(device), table(device).requires_grad_()
    upstream = torch.randn(7, 3, dtype=torch.float64, device=device)
    direction = torch.randn(6, 3, dtype=torch.float64, device=device)

    def second(output: Tensor) -> Tensor:
        up = upstream.clone().requires_grad_()
        (first,) = torch.autograd.grad(output, weight, up, create_graph=True)
        first = first.to_dense() if first.is_sparse else first
        return torch.autograd.grad(first, up, direction)[0]

    options = {"scale_grad_by_freq": scale_grad_by_freq}
    actual = second(embedding(lookups, weight, padding_idx, sparse=sparse, **options))
    expected = second(reference.lookup(weight, lookups, padding_idx, **options))
    torch.testing.assert_close(actual, expected)


def test_forward_mode_follows_reverse_mode_at_padding(device: str) -> None:
    weight = table(device)
    lookups = LOOKUPS.to(device)
    for function in (
        lambda w: embedding(lookups, w, padding_idx=1),
        lambda w: embedding_bag(lookups.view(1, 7), w, padding_idx=1),
    ):
        torch.testing.assert_close(jacfwd(function)(weight), jacrev(function)(weight))


@modes
def test_dual_tensors(mode: str, device: str) -> None:
    weight, tangent = table(device), torch.randn(6, 3, dtype=torch.float64, device=device)
    lookups, starts = LOOKUPS.to(device), OFFSETS.to(device)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weight, tangent)
        rows = forward_ad.unpack_dual(embedding(lookups, dual, max_norm=0.5)).tangent
        bags = forward_ad.unpack_dual(embedding_bag(lookups, dual, starts, mode=mode)).tangent
    assert torch.equal(rows, tangent[lookups])
    weight = weight.requires_grad_()
    jacobian = torch.autograd.functional.jacobian(
        lambda w: reference.bag(w, lookups, starts, mode), weight
    )
    torch.testing.assert_close(bags, (jacobian * tangent).sum((-1, -2)))


@modes
def test_torch_func_agrees_with_the_reference(mode: str, device: str) -> None:
    weight, starts = table(device), OFFSETS.to(device)
    lookups = LOOKUPS.to(device)
    factors = torch.rand(7, dtype=torch.float64, device=device) + 0.5

    def ours(weight: Tensor, factors: Tensor) -> Tensor:
        return embedding_bag(lookups, weight, starts, mode=mode, per_sample_weights=factors)

    def theirs(weight: Tensor, factors: Tensor) -> Tensor:
        return reference.bag(weight, lookups, starts, mode, factors)

    tangents = (torch.randn_like(weight), torch.randn_like(factors))
    upstream = torch.randn(4, 3, dtype=torch.float64, device=device)
    both = (ours, theirs)
    close = torch.testing.assert_close
    close(*(jvp(function, (weight, factors), tangents) for function in both))
    close(*(vjp(function, weight, factors)[1](upstream) for function in both))
    close(*(grad(lambda *a, f=f: f(*a).square().sum(), (0, 1))(weight, factors) for f in both))
    close(*(jacrev(function, (0, 1))(weight, factors) for function in both))
    close(jacfwd(ours, (0, 1))(weight, factors), jacrev(theirs, (0, 1))(weight, factors))
    close(*(hessian(lambda *a, f=f: f(*a).pow(3).sum())(weight, factors) for f in both))


def test_gradients_of_each_sample(device: str) -> None:
    model = torch.nn.Sequential(nn.EmbeddingBag(6, 3, device=device, dtype=torch.float64))
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    samples = torch.randint(6, (5, 4), device=device)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, parameters, (sample.unsqueeze(0),)).square().sum()

    actual = vmap(grad(loss), in_dims=(None, 0))(parameters, samples)["0.weight"]
    for sample, ours in zip(samples, actual, strict=True):
        torch.testing.assert_close(grad(loss)(parameters, sample)["0.weight"], ours)


def test_an_ensemble_of_tables(device: str) -> None:
    models = [nn.Embedding(6, 3, padding_idx=2, device=device) for _ in range(4)]
    parameters, buffers = torch.func.stack_module_state(models)
    base = nn.Embedding(6, 3, padding_idx=2, device="meta")
    lookups = indices("uniform", 5, 6, device=device)

    def call(parameters: Any, buffers: Any) -> Tensor:
        return functional_call(base, (parameters, buffers), (lookups,))

    output = vmap(call)(parameters, buffers)
    assert torch.equal(output, torch.stack([model(lookups) for model in models]))
    upstream = torch.randn_like(output)
    output.backward(upstream)
    for model, ours, up in zip(models, parameters["weight"].grad, upstream, strict=True):
        model(lookups).backward(up)
        torch.testing.assert_close(ours, model.weight.grad)


def test_jacobians_with_respect_to_many_gradients_at_once(device: str) -> None:
    """is_grads_batched runs the backward operators under vmap."""
    weight = table(device).requires_grad_()
    factors = torch.rand(7, dtype=torch.float64, device=device).requires_grad_()
    lookups, starts = LOOKUPS.to(device), OFFSETS.to(device)
    upstream = torch.randn(5, 4, 3, dtype=torch.float64, device=device)
    for mode in MODES:
        output = embedding_bag(lookups, weight, starts, mode=mode, per_sample_weights=factors)
        together = torch.autograd.grad(
            output, (weight, factors), upstream, is_grads_batched=True, retain_graph=True
        )
        for batch, up in enumerate(upstream):
            alone = torch.autograd.grad(output, (weight, factors), up, retain_graph=True)
            torch.testing.assert_close(tuple(each[batch] for each in together), alone)


def backward(gradient: Tensor) -> Tensor:
    gradient_of_table: Tensor = torch.ops.myemb.embedding_dense_backward(gradient, LOOKUPS, 6)
    return gradient_of_table


def test_batched_gradients_in_another_thread() -> None:
    """Such as that in which backward runs for a GPU: it does not know that vmap is at work."""
    upstream = torch.randn(5, 7, 3, dtype=torch.float64)

    def in_thread(gradient: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(backward, gradient).result()

    expected = torch.stack([backward(each) for each in upstream])
    assert torch.equal(_vmap(in_thread)(upstream), expected)


def test_batched_gradients_within_another_batch_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="within another batch"):
        _vmap(_vmap(backward))(torch.randn(2, 5, 7, 3))
