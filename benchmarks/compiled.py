"""Small models under torch.compile with Inductor: a lookup or bags, and what follows them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from inputs import Inputs
from torch import Tensor
from work import Call, Library, Work


@dataclasses.dataclass(frozen=True)
class Compiled(Work):
    """A compiled model.

    Attributes:
        model: ``"point"`` (a bias and a relu on the rows), ``"scale"`` (a product with a vector),
            ``"linear"`` (one with a matrix), ``"norm"`` (``max_norm`` and a relu) or ``"bag"``
            (means, and a product with a matrix).
        train: With backward. The gradient of the table is compared then.
    """

    model: str = "point"
    train: bool = False

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        weight = inputs.weight.clone().requires_grad_(self.train)
        bias, matrix = weight.detach()[0].clone(), weight.detach()[1:9].t().contiguous()
        indices, offsets = inputs.indices, inputs.offsets[:-1].clone()
        functional = library.functional

        def model(indices: Tensor, weight: Tensor) -> Any:
            if self.model == "bag":
                return functional.embedding_bag(indices, weight, offsets, mode="mean") @ matrix
            norm: dict[str, Any] = {"max_norm": 1.0} if self.model == "norm" else {}
            rows = functional.embedding(indices, weight, **norm)
            if self.model == "scale":
                return rows * bias
            return rows @ matrix if self.model == "linear" else (rows + bias).relu()

        # What is compiled goes with the code object: the engines must not share it.
        model.__code__ = model.__code__.replace()
        compiled = torch.compile(model, fullgraph=True, dynamic=False)
        if not self.train:
            with torch.no_grad():
                compiled(indices, weight)
            call: Call = torch.no_grad()(lambda: compiled(indices, weight))
            return call
        upstream = torch.ones_like(model(indices, weight))

        def step() -> Tensor:
            return torch.autograd.grad(compiled(indices, weight), weight, upstream)[0]

        step()
        return step

    def moved(self, inputs: Inputs) -> int:
        """See Work. What Inductor makes of the rest is its own affair."""
        return inputs.shape.lookups * (inputs.shape.row_bytes + 8)
