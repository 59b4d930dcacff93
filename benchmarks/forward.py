"""Lookups and bags going forward, with max_norm or without, and renormalisation alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from inputs import Inputs
from torch import Tensor
from work import Call, Groups, Library, Limits, Work, factors_of_accumulator

MAX_NORM = 1.0  # below the norm of every random row: the first call scales all that it looks up
SHRINK = 0.9999  # from call to call, where every call is to find rows that are too long
PADDED = 10  # each so many lookups there is one of the padding row


def own_table(inputs: Inputs, library: Library, pages: bool, writes: bool) -> Tensor:
    """Returns the table, or a copy where the work changes it or moves it."""
    weight = inputs.weight
    if writes or (pages and library.huge_pages is not None):
        weight = weight.clone()
    if pages and library.huge_pages is not None:
        library.huge_pages(weight)
    return weight


@dataclasses.dataclass(frozen=True)
class Lookup(Work):
    """``embedding``.

    Attributes:
        max_norm: Rows that are too long are scaled first.
        pages: myemb's table lies in huge pages, PyTorch's does not.
    """

    max_norm: bool = False
    pages: bool = False

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        weight = own_table(inputs, library, self.pages, writes=self.max_norm)
        indices, embedding = inputs.indices, library.functional.embedding
        if self.max_norm:
            return lambda: embedding(indices, weight, max_norm=MAX_NORM)
        return lambda: embedding(indices, weight)

    def moved(self, inputs: Inputs) -> int:
        """See Work."""
        shape = inputs.shape
        read_for_norms = len(inputs.distinct) * shape.row_bytes if self.max_norm else 0
        return shape.lookups * (2 * shape.row_bytes + 8) + read_for_norms

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """See Work."""
        weight, indices = inputs.weight, inputs.indices
        shape = (inputs.shape.lookups, inputs.shape.width)
        reused = torch.zeros(shape, dtype=weight.dtype)

        def into(out: Tensor, table: Tensor, tuning: Any) -> Tensor:
            loops.gather(table, indices, out, tuning)
            return out

        if self.max_norm:
            groups, own = Groups(inputs, indices, loops), weight.clone()

            def sorted_first(tuning: Any) -> Tensor:
                groups.sort(tuning)
                loops.renorm(own, groups.distinct, MAX_NORM, tuning)
                return into(reused, own, tuning)

            return {"lim+sort": sorted_first}
        return {
            "limit": lambda tuning: into(reused, weight, tuning),
            "lim+huge": lambda tuning: into(loops.empty_huge(shape, weight), weight, tuning),
        }

    def has_fbgemm(self, inputs: Inputs) -> bool:
        """See Work."""
        return not (self.max_norm or self.pages) and inputs.shape.dtype in ("fp32", "fp16")


@dataclasses.dataclass(frozen=True)
class Bag(Work):
    """``embedding_bag``.

    Attributes:
        mode: Its mode.
        weighted: With per-sample weights.
        padding: One lookup in ten is of the padding row.
        max_norm, pages: As in Lookup.
        grad: The table wants a gradient, so that mode max has to note where maxima are.
        strided: The rows of the table are not adjacent.
    """

    mode: str = "sum"
    weighted: bool = False
    padding: bool = False
    max_norm: bool = False
    pages: bool = False
    grad: bool = False
    strided: bool = False

    def indices(self, inputs: Inputs) -> Tensor:
        """Returns the lookups, some of the padding row if there is one."""
        if not self.padding:
            return inputs.indices
        indices = inputs.indices.clone()
        indices[::PADDED] = 0
        return indices

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        weight = own_table(inputs, library, self.pages, writes=self.max_norm)
        if self.strided:
            weight = torch.cat([weight, weight], 1)[:, : inputs.shape.width]
        weight = weight.detach().requires_grad_(self.grad)
        indices, offsets = self.indices(inputs), inputs.offsets[:-1].clone()
        options: dict[str, Any] = {"mode": self.mode}
        if self.weighted:
            options["per_sample_weights"] = inputs.factors
        if self.padding:
            options["padding_idx"] = 0
        if self.max_norm:
            options["max_norm"] = MAX_NORM
        embedding_bag = library.functional.embedding_bag
        return lambda: embedding_bag(indices, weight, offsets, **options)

    def moved(self, inputs: Inputs) -> int:
        """See Work."""
        shape, row = inputs.shape, inputs.shape.row_bytes
        read = shape.lookups * (row + 8) + (inputs.factors.nbytes if self.weighted else 0)
        if self.max_norm:
            read += len(inputs.distinct) * row
        places = 8 * shape.width if self.mode == "max" and self.grad else 0
        return read + shape.bags * (row + 8 + places)

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """See Work."""
        indices, offsets, padding = self.indices(inputs), inputs.offsets, 0 if self.padding else -1
        table = inputs.weight.clone() if self.max_norm else inputs.weight
        shape = (inputs.shape.bags, inputs.shape.width)
        out = torch.zeros(shape, dtype=table.dtype)
        places = torch.zeros(shape, dtype=torch.int64) if self.grad else None
        factors = factors_of_accumulator(inputs.factors) if self.weighted else None
        mean = self.mode == "mean"

        def bags(tuning: Any) -> Tensor:
            if self.mode == "max":
                loops.max_of_bags(table, indices, offsets, padding, out, places, tuning)
            else:
                loops.reduce_bags(table, indices, offsets, factors, mean, padding, out, tuning)
            return out

        if not self.max_norm:
            return {"limit": bags}
        groups = Groups(inputs, indices, loops)

        def sorted_first(tuning: Any) -> Tensor:
            groups.sort(tuning)
            loops.renorm(table, groups.distinct, MAX_NORM, tuning)
            return bags(tuning)

        return {"lim+sort": sorted_first}

    def has_fbgemm(self, inputs: Inputs) -> bool:
        """See Work."""
        special = self.padding or self.max_norm or self.pages or self.grad or self.strided
        return self.mode != "max" and not special and inputs.shape.dtype in ("fp32", "fp16")


@dataclasses.dataclass(frozen=True)
class Renorm(Work):
    """``embedding_renorm_``.

    Attributes:
        scaled: Every call finds all rows too long; otherwise none.
    """

    scaled: bool = False

    def call(self, inputs: Inputs, library: Library) -> Call:
        """See Work."""
        weight, indices = inputs.weight.clone(), inputs.indices
        # PyTorch has it in no module, only among its operators.
        renorm = getattr(library.functional, "embedding_renorm_", torch.embedding_renorm_)
        norm = self._first_norm(inputs)

        def call() -> Tensor:
            nonlocal norm
            norm *= SHRINK if self.scaled else 1.0
            renorm(weight, indices, norm, 2.0)
            return weight

        return call

    def _first_norm(self, inputs: Inputs) -> float:
        return MAX_NORM if self.scaled else 100.0 * inputs.shape.width

    def moved(self, inputs: Inputs) -> int:
        """See Work."""
        rows = len(inputs.distinct) * inputs.shape.row_bytes
        return inputs.shape.lookups * 8 + rows * (2 if self.scaled else 1)

    def limits(self, inputs: Inputs, loops: Any) -> Limits:
        """See Work."""
        groups, weight = Groups(inputs, inputs.indices, loops), inputs.weight.clone()
        norm = self._first_norm(inputs)

        def rows_only(tuning: Any) -> Tensor:
            nonlocal norm
            norm *= SHRINK if self.scaled else 1.0
            loops.renorm(weight, groups.distinct, norm, tuning)
            return weight

        def sorted_first(tuning: Any) -> Tensor:
            groups.sort(tuning)
            return rows_only(tuning)

        return {"lim+sort": sorted_first}
