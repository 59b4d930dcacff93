"""Modules as functions of stacked parameters: ensembles, gradients of each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, hessian, jvp, stack_module_state, vmap

from myemb import nn

pytestmark = pytest.mark.usefixtures("no_vmap_fallback")
ROWS, WIDTH, MODELS, SAMPLES = 6, 3, 4, 5


class Model(torch.nn.Module):
    """A lookup, bags and a layer, from torch.nn or myemb.nn; ``mode`` is that of the bags."""

    def __init__(self, library: Any, mode: str, device: str) -> None:
        super().__init__()
        options: dict[str, Any] = {"padding_idx": 2, "device": device, "dtype": torch.float64}
        self.lookup = library.Embedding(ROWS, WIDTH, scale_grad_by_freq=True, **options)
        self.bags = library.EmbeddingBag(ROWS, WIDTH, mode=mode, **options)
        self.out = torch.nn.Linear(WIDTH, 2, device=device, dtype=torch.float64)

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = self.out(self.lookup(rows).sum(-2) * self.bags(rows))
        return output


def pair(mode: str, device: str) -> tuple[Model, Model]:
    """Ours and PyTorch's, with the same parameters."""
    ours, theirs = Model(nn, mode, device), Model(torch.nn, mode, device)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def by_backward(model: torch.nn.Module, rows: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(rows).pow(3).sum().backward()
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad.clone()
    return found


def loss(model: torch.nn.Module) -> Callable[..., Tensor]:
    return lambda parameters, rows: functional_call(model, parameters, (rows,)).pow(3).sum()


modes = pytest.mark.parametrize("mode", ["sum", "mean", "max"])


@modes
def test_gradients_of_each_sample_are_pytorchs(mode: str, device: str) -> None:
    ours, theirs = pair(mode, device)
    samples = torch.randint(ROWS, (SAMPLES, 1, 4), device=device)
    parameters = dict(ours.named_parameters())
    actual, values = vmap(grad_and_value(loss(ours)), (None, 0))(parameters, samples)
    for place, sample in enumerate(samples):
        torch.testing.assert_close(values[place], theirs(sample).pow(3).sum())
        expected = by_backward(theirs, sample)
        torch.testing.assert_close({n: each[place] for n, each in actual.items()}, expected)


@modes
@pytest.mark.parametrize("own_batch", [False, True])
def test_an_ensemble_is_a_list_of_torch_modules(mode: str, own_batch: bool, device: str) -> None:
    pairs = [pair(mode, device) for _ in range(MODELS)]
    rows = torch.randint(ROWS, (MODELS, 2, 4), device=device)
    parameters, buffers = stack_module_state([ours for ours, _ in pairs])
    base = pairs[0][0]

    def call(parameters: Any, buffers: Any, rows: Tensor) -> Tensor:
        output: Tensor = functional_call(base, (parameters, buffers), (rows,))
        return output

    dims = (0, 0, 0 if own_batch else None)
    output = vmap(call, dims)(parameters, buffers, rows if own_batch else rows[0])
    output.pow(3).sum().backward()
    for place, (_, theirs) in enumerate(pairs):
        own = rows[place if own_batch else 0]
        torch.testing.assert_close(output[place], theirs(own))
        expected = by_backward(theirs, own)
        actual = {name: each.grad[place] for name, each in parameters.items()}
        torch.testing.assert_close(actual, expected)


@modes
def test_a_hessian_times_a_vector_of_an_ensemble(mode: str, device: str) -> None:
    pairs = [pair(mode, device) for _ in range(2)]
    rows = torch.randint(ROWS, (2, 4), device=device)
    parameters = {n: p.detach() for n, p in stack_module_state([a for a, _ in pairs])[0].items()}
    directions = {name: torch.randn_like(value) for name, value in parameters.items()}
    # Its gradient is none of the function: padding is left out, and the rest scaled by frequency.
    directions["lookup.weight"].zero_()
    base = pairs[0][0]

    def product(parameters: Any, directions: Any) -> Any:
        return jvp(lambda p: grad(loss(base))(p, rows), (parameters,), (directions,))[1]

    actual = vmap(product)(parameters, directions)
    for place in range(2):
        # From gradients of torch.nn on both sides; there are no second ones of its bags.
        moved = []
        for step in (1e-5, -1e-5):
            _, theirs = pairs[place]
            own = {n: p[place] + step * directions[n][place] for n, p in parameters.items()}
            theirs.load_state_dict(own)
            moved.append(by_backward(theirs, rows))
        for name, each in actual.items():
            expected = (moved[0][name] - moved[1][name]) / 2e-5
            torch.testing.assert_close(each[place], expected, rtol=1e-4, atol=1e-6)


def test_collections(device: str) -> None:
    def make() -> nn.EmbeddingBagCollection:
        tables = [
            nn.Table(ROWS, 3, name="a", features=["x", "y"], dtype=torch.float64),
            nn.Table(ROWS, 2, name="b", mode="max", padding_idx=0, dtype=torch.float64),
        ]
        return nn.EmbeddingBagCollection(tables).to(device)

    def apart(collection: nn.EmbeddingBagCollection, batch: dict[str, Tensor]) -> Tensor:
        """One call of torch.nn for each feature."""
        of: dict[str, Any] = {"x": "a", "y": "a", "b": "b"}
        forward: Any = torch.nn.EmbeddingBag.forward
        outputs = [forward(collection.tables[of[name]], rows) for name, rows in batch.items()]
        return torch.cat(outputs, 1)

    models = [make() for _ in range(MODELS)]
    batch = {name: torch.randint(ROWS, (2, 3), device=device) for name in ("x", "y", "b")}
    samples = {name: torch.randint(ROWS, (SAMPLES, 1, 3), device=device) for name in batch}
    parameters, _ = stack_module_state(models)  # type: ignore[arg-type]
    output = vmap(lambda p: functional_call(models[0], p, (batch,)))(parameters)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    for place, model in enumerate(models):
        expected = apart(model, batch)
        torch.testing.assert_close(output[place], expected)
        expected.backward(upstream[place])
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[name].grad[place], parameter.grad)
    model = models[0]
    of_each = vmap(grad(loss(model)), (None, 0))(dict(model.named_parameters()), samples)
    for place in range(SAMPLES):
        model.zero_grad()
        apart(model, {name: rows[place] for name, rows in samples.items()}).pow(3).sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(of_each[name][place], parameter.grad)


def test_a_hessian_of_parameters_is_symmetric(device: str) -> None:
    model, rows = Model(nn, "sum", device), torch.tensor([[0, 1, 1, 5]], device=device)
    weight = model.bags.weight.detach()
    second = (
        hessian(lambda w: loss(model)({"bags.weight": w}, rows))(weight).flatten(2).flatten(0, 1)
    )
    torch.testing.assert_close(second, second.t())
    assert second.abs().sum() > 0
