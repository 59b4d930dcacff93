"""The same program twice from one seed: with torch.nn, and with its embeddings swapped."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import myemb

SEED = 0


class Client(Protocol):
    """A program by others, in three parts. What is random in it comes from torch's generator."""

    def build(self) -> torch.nn.Module:
        """The model, with torch.nn's modules."""

    def train(self, model: torch.nn.Module) -> list[float]:
        """Trains the model with an optimizer of torch; returns the losses."""

    def evaluate(self, model: torch.nn.Module) -> Tensor:
        """What the model makes of some inputs, always the same."""


@dataclass
class Run:
    """What a program did.

    Attributes:
        model: after training.
        first_state, first_output: before training.
        gradients: of the first step, by the names of the parameters.
        losses, output: of training, and after it.
        seconds: of the processor, for training and evaluation.
    """

    model: torch.nn.Module
    first_state: dict[str, Tensor]
    first_output: Tensor
    gradients: dict[str, Tensor]
    losses: list[float]
    output: Tensor
    seconds: float


@dataclass
class Comparison:
    """A program with torch.nn (``theirs``) and swapped (``ours``).

    Attributes:
        name, modules, figures: for the table: the program, how many modules were swapped, and
            what else came out.
        outputs, gradients, losses: the largest differences, beside the largest entry, of the first
            outputs and losses; of the first step's gradients; and of the last losses and outputs.
    """

    name: str
    modules: int
    theirs: Run
    ours: Run
    evaluate: Callable[[torch.nn.Module], Tensor]
    figures: str = ""

    @functools.cached_property
    def outputs(self) -> float:
        losses = (torch.tensor(run.losses[0]) for run in (self.ours, self.theirs))
        outputs = (run.first_output for run in (self.ours, self.theirs))
        return max(difference(*losses), difference(*outputs))

    @functools.cached_property
    def gradients(self) -> float:
        ours, theirs = self.ours.gradients, self.theirs.gradients
        assert ours.keys() == theirs.keys() and ours
        return max(difference(gradient, theirs[name]) for name, gradient in ours.items())

    @functools.cached_property
    def losses(self) -> float:
        ours, theirs = self.ours, self.theirs
        assert len(ours.losses) == len(theirs.losses)
        losses = (torch.tensor(run.losses[-1]) for run in (ours, theirs))
        return max(difference(*losses), difference(ours.output, theirs.output))


COMPARISONS: list[Comparison] = []  # for the table at the end


def fit(
    optimizer: torch.optim.Optimizer, batches: Iterable[Any], loss_of: Callable[[Any], Tensor]
) -> list[float]:
    """A step for each batch; returns the losses."""
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def embeddings(model: torch.nn.Module) -> list[torch.nn.Module]:
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    return [module for module in model.modules() if isinstance(module, kinds)]


def swap(model: torch.nn.Module, modules: int) -> None:
    """Swaps the embeddings of a model, which has to have so many."""
    found = embeddings(model)
    assert len(found) == modules
    myemb.replace_embeddings_(model)
    for module in found:
        assert isinstance(module, (myemb.nn.Embedding, myemb.nn.EmbeddingBag))
        assert type(module).forward.__module__ == myemb.nn.__name__


@contextlib.contextmanager
def first_gradients(model: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
    """Takes down the gradients that the first step finds, whoever calls it."""
    gradients: dict[str, Tensor] = {}

    def record(*_: Any) -> None:
        if not gradients:
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    gradients[name] = parameter.grad.clone()

    handle = register_optimizer_step_pre_hook(record)
    try:
        yield gradients
    finally:
        handle.remove()


@contextlib.contextmanager
def all_called(modules: list[torch.nn.Module]) -> Iterator[None]:
    """Asserts that each of the modules is called in the block: a swap that nobody sees is none."""
    called: set[int] = set()
    hooks = [m.register_forward_hook(lambda m, *_: called.add(id(m))) for m in modules]
    yield
    for hook in hooks:
        hook.remove()
    assert called == {id(module) for module in modules}


def run(client: Client, modules: int | None, compiled: bool = False) -> Run:
    """Runs a program from the seed; swapped, if the number of its embedding modules is given."""
    torch.manual_seed(SEED)
    model = client.build()
    if modules is not None:
        swap(model, modules)
    if compiled:
        model.compile(fullgraph=True)
    # A hook is a Python function, which the compiler would have to follow.
    watch = contextlib.nullcontext() if compiled else all_called(embeddings(model))
    first_state = copy.deepcopy(model.state_dict())
    with watch, first_gradients(model) as gradients:
        first_output = client.evaluate(model)
        torch.manual_seed(SEED)
        start = time.process_time()
        losses = client.train(model)
        output = client.evaluate(model)
        seconds = time.process_time() - start
    return Run(model, first_state, first_output, gradients, losses, output, seconds)


def compare(
    name: str, modules: int, theirs: Client, ours: Client | None = None, compiled: bool = False
) -> Comparison:
    """Runs a program twice.

    Args:
        name: For the table.
        modules: How many embedding modules the model has.
        theirs: The program that runs with torch.nn.
        ours: The one that is swapped, if it is another one.
        compiled: Whether ``torch.compile`` compiles both models, each as one graph.
    """
    ours = ours or theirs
    runs = run(theirs, None, compiled), run(ours, modules, compiled)
    return Comparison(name, modules, *runs, ours.evaluate)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two tensors, beside the largest entry; 0 if every bit is equal."""
    assert ours.layout == theirs.layout and ours.dtype == theirs.dtype
    if ours.is_sparse:
        ours, theirs = ours.to_dense(), theirs.to_dense()
    assert ours.shape == theirs.shape
    if torch.equal(ours, theirs):
        return 0.0
    distance = float((ours - theirs).abs().max() / theirs.abs().max())
    assert math.isfinite(distance)
    return distance


def assert_same(
    comparison: Comparison, outputs: float = 0, gradients: float = 0, losses: float = 0
) -> None:
    """Asserts that a swapped program computed what the original did, and that states are shared.

    Every bit has to be equal where no limit is given. A comparison that passes is put on the list
    for the table.

    Args:
        comparison: What both did.
        outputs, gradients, losses: What the differences may be. Those of ``losses`` have been
            through all steps, in which rounding errors grow.
    """
    theirs, ours, evaluate = comparison.theirs, comparison.ours, comparison.evaluate
    assert ours.first_state.keys() == theirs.first_state.keys()
    for key, value in ours.first_state.items():
        assert torch.equal(value, theirs.first_state[key]), key
    assert comparison.outputs <= outputs
    assert comparison.gradients <= gradients
    assert comparison.losses <= losses
    assert theirs.losses[-1] < theirs.losses[0], "it does not learn: what is compared?"

    trained = copy.deepcopy(ours.model.state_dict())
    ours.model.load_state_dict(theirs.model.state_dict())
    assert difference(evaluate(ours.model), theirs.output) <= outputs
    theirs.model.load_state_dict(trained)
    assert difference(evaluate(theirs.model), ours.output) <= outputs
    COMPARISONS.append(comparison)
