"""Tables that are ``DTensor``s: sharded by rows or by columns, or replicated.

Each process looks up what its part of the table has, with the ordinary operators, and the
placements of the result say what is left to do: columns to put side by side, or sums to add up. So
the gradient of a process is that of its own part, where ``aten.embedding_dense_backward`` makes
that of the whole table in each process.

``torch.distributed.tensor`` takes longer to import than this package, and torch's own modules do
not import it: it is imported when a ``DTensor`` is there, and so somebody has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from . import _C, functional
from ._padding import bag_padding_row, padding_row


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a ``DTensor``."""
    return getattr(tensor, "device_mesh", None) is not None


def sharded_embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None,
    max_norm: float | None,
    norm_type: float,
    scale_grad_by_freq: bool,
    sparse: bool,
) -> Tensor:
    """``functional.embedding`` of ``DTensor``s."""
    _check_tensors("embedding", weight, input)
    is_local = max_norm is None and not scale_grad_by_freq  # each lookup by itself
    batch_dims = range(input.dim()) if is_local else ()
    part = _Part.of_call(weight, input, batch_dims, input.dim(), max_norm, sparse)
    indices = part.local(input)
    shape = (*input.shape, weight.size(1))
    if not part.has_some_rows:
        part.renorm_(indices, max_norm, norm_type)
        rows = functional.embedding(
            indices, part.table(), padding_idx, scale_grad_by_freq=scale_grad_by_freq
        )
        return part.distribute(rows, shape)
    _check_rows(indices, weight.size(0), IndexError("index out of range in self"))
    if padding_idx is not None:
        padding_idx = part.padding_row(padding_row(padding_idx, weight.size(0)))
    own = part.owns(indices)
    local = indices.long() - part.first_row
    if is_local and part.stored.size(0):  # shapes that torch.compile knows
        rows = functional.embedding(local.masked_fill(~own, 0), part.table(), padding_idx)
        return part.distribute(rows.masked_fill(~own.unsqueeze(-1), 0), shape)
    places = own.flatten().nonzero().squeeze(1)
    local = local.flatten()[places]
    part.renorm_(local, max_norm, norm_type)
    own_rows = functional.embedding(
        local, part.table(), padding_idx, scale_grad_by_freq=scale_grad_by_freq
    )
    width = own_rows.size(1)
    rows = own_rows.new_zeros(own.numel(), width).index_copy(0, places, own_rows)
    return part.distribute(rows.view(*indices.shape, width), shape)


def sharded_embedding_bag(
    whole: Bags,
    weight: Any,
    max_norm: float | None,
    norm_type: float,
    scale_grad_by_freq: bool,
    mode: str,
    sparse: bool,
    padding_idx: int | None,
) -> Tensor:
    """``functional.embedding_bag`` of ``DTensor``s."""
    input, offsets, factors, _ = whole
    _check_tensors("embedding_bag", weight, input, offsets, factors)
    is_local = max_norm is None and not scale_grad_by_freq and input.dim() == 2
    part = _Part.of_call(weight, input, (0,) if is_local else (), 1, max_norm, sparse)
    bags = Bags(
        part.local(input),
        None if offsets is None else part.local(offsets),
        None if factors is None else part.local_factors(factors),
        whole.include_last_offset,
    )
    if padding_idx is not None:
        padding_idx = bag_padding_row(padding_idx, weight.size(0))
    if part.has_some_rows or max_norm is not None:
        bags.check(part.stored, mode, scale_grad_by_freq)
    if part.has_some_rows:
        _check_rows(bags.indices, weight.size(0), RuntimeError("index out of range in input"))
        if mode == "max":
            raise NotImplementedError(
                "embedding_bag: the maxima of a table that is sharded by rows: shard its columns "
                "(Shard(1)), or redistribute it"
            )
        if mode == "mean":
            bags = bags.with_means_as_sums(padding_idx, part.stored.dtype)
        bags, mode = bags.of_rows(part), "sum"
        padding_idx = None if padding_idx is None else part.padding_row(padding_idx)
    part.renorm_(bags.indices, max_norm, norm_type)
    rows = functional.embedding_bag(
        bags.indices,
        part.table(),
        bags.offsets,
        scale_grad_by_freq=scale_grad_by_freq,
        mode=mode,
        per_sample_weights=bags.factors,
        include_last_offset=bags.include_last_offset,
        padding_idx=padding_idx,
    )
    return part.distribute(rows, (whole.num_bags(), weight.size(1)))


def local_parts(weight: Any, *others: Any) -> list[Tensor]:
    """What this process has of a parameter, its gradient and its states."""
    if any(not is_sharded(tensor) for tensor in others):
        raise RuntimeError(
            "a parameter that is a DTensor needs a gradient and states that are, too"
        )
    placed = (tensor.redistribute(placements=weight.placements) for tensor in others)
    return [tensor.to_local() for tensor in (weight, *placed)]


def new_row_state(weight: Any, value: float, dtype: torch.dtype) -> Tensor:
    """``(V,)`` numbers, sharded as the rows of a table are."""
    from torch.distributed.tensor import Shard, full

    if Shard(1) in weight.placements:
        raise NotImplementedError(
            "RowWiseAdagrad needs whole rows of a table in a process, but its columns are sharded: "
            "shard its rows (Shard(0)), or use Adagrad"
        )
    result: Tensor = full(
        weight.size(0),
        value,
        dtype=dtype,
        device_mesh=weight.device_mesh,
        placements=weight.placements,
    )
    return result


@dataclasses.dataclass
class _Part:
    """What a process has of a table and of what is looked up there."""

    weight: Any  # the whole table
    stored: Tensor  # (rows, columns) of this process
    has_some_rows: bool  # and other processes have the others
    first_row: int
    of_input: list[Any]  # placements
    of_output: list[Any]
    of_gradient: list[Any]  # of the table

    @classmethod
    def of_call(
        cls,
        weight: Any,
        input: Any,
        batch_dims: Container[int],
        column_dim: int,
        max_norm: float | None,
        sparse: bool,
    ) -> _Part:
        """Chooses placements.

        ``input`` may stay sharded along ``batch_dims``; ``column_dim`` is the output's.
        """
        from torch.distributed.tensor import Partial, Replicate, Shard
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        if sparse and weight.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError("sparse=True: a DTensor cannot have a sparse gradient")
        of_table: list[Any] = []
        of_input: list[Any] = []
        of_output: list[Any] = []
        of_gradient: list[Any] = []
        for table, batch in zip(weight.placements, input.placements, strict=True):
            if type(table) is Shard:
                by_rows = table.dim == 0
                of_table.append(table)
                of_input.append(Replicate())
                of_output.append(Partial() if by_rows else Shard(column_dim))
                of_gradient.append(table)
            else:
                is_split = type(batch) is Shard and batch.dim in batch_dims
                of_table.append(Replicate())
                of_input.append(batch if is_split else Replicate())
                of_output.append(of_input[-1])
                of_gradient.append(Partial() if is_split else Replicate())
        if max_norm is not None and (of_table != list(weight.placements) or Shard(1) in of_table):
            raise NotImplementedError(
                f"max_norm needs whole rows of the table in a process, but it is placed as "
                f"{weight.placements}: shard its rows (Shard(0)), or replicate it"
            )
        _, first = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, of_table)
        weight = weight.redistribute(placements=of_table)
        with torch.no_grad():
            stored = weight.to_local()
        has_some_rows = Shard(0) in of_table
        return cls(weight, stored, has_some_rows, int(first[0]), of_input, of_output, of_gradient)

    def table(self) -> Tensor:
        """``stored`` for autograd; to be taken after the last change of rows."""
        table: Tensor = self.weight.to_local(grad_placements=self.of_gradient)
        return table

    def local(self, tensor: Any) -> Tensor:
        """The indices or offsets that this process looks up."""
        local: Tensor = tensor.redistribute(placements=self.of_input).to_local()
        return local

    def local_factors(self, per_sample_weights: Any) -> Tensor:
        """The factors, of whose gradient every part of the table makes one."""
        from torch.distributed.tensor import Partial, Shard

        of_gradient = [
            Partial() if type(table) is Shard else batch
            for table, batch in zip(self.weight.placements, self.of_input, strict=True)
        ]
        local: Tensor = per_sample_weights.redistribute(placements=self.of_input).to_local(
            grad_placements=of_gradient
        )
        return local

    def owns(self, indices: Tensor) -> Tensor:
        """Whether this process has each of the rows."""
        return (indices >= self.first_row) & (indices < self.first_row + self.stored.size(0))

    def padding_row(self, padding_idx: int) -> int | None:
        """Where that row is in this part; None if it is not."""
        local = padding_idx - self.first_row
        return local if 0 <= local < self.stored.size(0) else None

    def renorm_(self, indices: Tensor, max_norm: float | None, norm_type: float) -> None:
        """Renorms rows of this part, if that is asked for."""
        if max_norm is not None:
            with torch.no_grad():
                functional.embedding_renorm_(self.stored, indices, max_norm, norm_type)

    def distribute(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The result of all processes, of which ``rows`` is this one's part."""
        from torch.distributed.tensor import DTensor

        stride = torch.empty(shape, device="meta").stride()
        result: Tensor = DTensor.from_local(
            rows,
            self.weight.device_mesh,
            self.of_output,
            run_check=False,
            shape=torch.Size(shape),
            stride=stride,
        )
        return result


class Bags(NamedTuple):
    """What a call of ``embedding_bag`` looks up, all of it or a process's part."""

    indices: Tensor
    offsets: Tensor | None
    factors: Tensor | None  # per_sample_weights
    include_last_offset: bool

    def check(self, table: Tensor, mode: str, scale_grad_by_freq: bool) -> None:
        """Raises what the operator raises, of all but the values of indices."""
        _C.check_embedding_bag(
            table,
            self.indices,
            self.offsets,
            functional.MODES.get(mode, functional.UNKNOWN_MODE),
            scale_grad_by_freq,
            False,
            self.factors,
            self.include_last_offset,
            None,
        )

    def num_bags(self) -> int:
        """``B``."""
        if self.offsets is None:
            return self.indices.size(0)
        return self.offsets.size(0) - self.include_last_offset

    def borders(self) -> Tensor:
        """``(B + 1,)``, int64: where the bags begin and where the last one ends."""
        size = self.indices.numel()
        if self.offsets is None:
            bags, length = self.indices.shape
            return torch.arange(bags + 1, device=self.indices.device) * length
        offsets = self.offsets.long()
        if self.include_last_offset:
            return offsets
        return torch.cat([offsets, offsets.new_full((1,), size)])

    def with_means_as_sums(self, padding_idx: int | None, dtype: torch.dtype) -> Bags:
        """The factors that make the sum of a bag its mean."""
        borders = self.borders()
        counted = torch.ones_like(self.indices, dtype=torch.bool)
        if padding_idx is not None:
            counted = self.indices != padding_idx
        sizes = _count(counted)[borders].diff()
        exact = torch.promote_types(dtype, torch.float32)
        means = (1 / sizes.clamp(min=1).to(exact)).repeat_interleave(borders.diff())
        means = means.view(self.indices.shape)
        return self._replace(factors=means if self.factors is None else self.factors * means)

    def of_rows(self, part: _Part) -> Bags:
        """What is left of the bags if all lookups of other rows are left out."""
        own = part.owns(self.indices)
        return Bags(
            self.indices[own].long() - part.first_row,
            _count(own)[self.borders()],
            None if self.factors is None else self.factors[own],
            True,
        )


def _count(marked: Tensor) -> Tensor:
    """``(N + 1,)``: how many of the first 0, 1 and so on are marked."""
    return torch.cat([marked.new_zeros(1, dtype=torch.long), marked.flatten().cumsum(0)])


def _check_tensors(name: str, *tensors: Tensor | None) -> None:
    if any(tensor is not None and not is_sharded(tensor) for tensor in tensors):
        raise RuntimeError(
            f"{name}: got mixed torch.Tensor and DTensor, need to convert all torch.Tensor to "
            "DTensor before calling distributed operators!"
        )


def _check_rows(indices: Tensor, num_embeddings: int, error: Exception) -> None:
    """What no process has would be zeros everywhere."""
    bad = (indices < 0) | (indices >= num_embeddings)
    if indices.device.type != "cpu" or is_dynamo_compiling():
        torch._assert_async(~bad.any(), str(error))
    elif bad.any():
        raise type(error)(
            f"{error}: {int(indices[bad][0])} is not in the valid range [0, {num_embeddings})"
        )
