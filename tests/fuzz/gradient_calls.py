"""Random calls of the operators behind embedding_bag, as anybody may call them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from bag_calls import Bags, draw_bags, gradients_in_float64
from checks import Call, Expected, Finding, size_of
from inputs import MODES
from source import BAGS, COUNTS, NO_INDICES, OTHER_DTYPES, Source
from torch import Tensor

from myemb.functional import coalesce

ops = torch.ops.myemb


def draw_gradient(source: Source) -> Call:
    """One of the operators behind embedding_bag, called as anybody may call it."""
    bags = draw_bags(source)
    operator = source.choice(("dense", "sparse", "factors", "max"))
    if operator == "sparse" and bags.mode == "max":
        bags.mode = "sum"
    if operator == "factors":
        bags.per_sample_weights, bags.scale_grad_by_freq = None, False
    if operator == "max":
        bags.mode, bags.scale_grad_by_freq = "max", False
        if bags.per_sample_weights is not None:
            bags.per_sample_weights = bags.per_sample_weights.round()
    upstream = source.spread((bags.num_bags, bags.weight.size(1)), bags.weight.dtype)
    positions = None
    if bags.mode == "max" and operator != "max":
        positions = source.layout(bags.positions())
    arguments: dict[str, Any] = {
        "grad_output": upstream,
        "weight": bags.weight,
        "indices": bags.indices,
        "offsets": bags.offsets,
        "positions": positions,
        "num_weights": len(bags.weight),
        "scale_grad_by_freq": bags.scale_grad_by_freq,
        "mode": MODES.index(bags.mode),
        "per_sample_weights": bags.per_sample_weights,
        "include_last_offset": bags.include_last_offset,
        "padding_idx": bags.padding_idx,
    }
    names = ARGUMENTS[operator]
    arguments = {name: value for name, value in arguments.items() if name in names}
    faults = []
    if source.chance(0.35):
        faults = [f for f in (spoil_gradient(source, bags, arguments),) if f]
    op = OPERATORS[operator]
    tensors = {n: t for n, t in arguments.items() if isinstance(t, Tensor)}
    return Call(
        op.__name__ if hasattr(op, "__name__") else str(op),
        arguments,
        lambda: results_of(operator, bags, op(**arguments)),
        lambda: expected_of(operator, bags, upstream),
        tensors,
        faults=faults,
    )


_GRADIENT = ("grad_output", "num_weights", "scale_grad_by_freq", "mode", "per_sample_weights")
_BAG = ("indices", "offsets", "include_last_offset", "padding_idx")
ARGUMENTS = {
    "dense": (*_BAG, *_GRADIENT, "positions"),
    "sparse": (*_BAG, *_GRADIENT),
    "factors": (*_BAG, "grad_output", "weight", "positions", "mode"),
    "max": (*_BAG, "weight", "per_sample_weights"),
}
OPERATORS = {
    "dense": ops.embedding_bag_dense_backward,
    "sparse": ops.embedding_bag_sparse_backward,
    "factors": ops.embedding_bag_per_sample_weights_backward,
    "max": ops.embedding_bag_max,
}


def spoil_gradient(source: Source, bags: Bags, arguments: dict[str, Any]) -> str | None:
    indices, offsets, rows = bags.indices, bags.offsets, len(bags.weight)
    changes: dict[str, Callable[[], dict[str, Any] | None]] = {
        "index": lambda: with_name("indices", source.bad_index(indices, len(bags.weight))),
        "index dtype": lambda: {"indices": indices.to(source.choice(NO_INDICES))},
        "padding": lambda: {"padding_idx": source.choice((rows, -rows - 1))},
    }
    if offsets is not None:
        changes["offsets"] = lambda: with_name(
            "offsets", source.bad_offsets(offsets, indices.numel(), bags.include_last_offset)
        )
    upstream = arguments.get("grad_output")
    if upstream is not None:
        changes["shape"] = lambda: {
            "grad_output": source.choice(
                (upstream.new_zeros(len(upstream) + 1, upstream.size(1)), upstream.unsqueeze(0))
            )
        }
        changes["dtype"] = lambda: {"grad_output": upstream.to(source.choice(OTHER_DTYPES))}
        changes["meta"] = lambda: {"grad_output": torch.empty_like(upstream, device="meta")}
    if "num_weights" in arguments:
        changes["rows"] = lambda: {"num_weights": source.choice((-1, -(2**40)))}
    if "mode" in arguments:
        changes["mode"] = lambda: {"mode": source.choice((-1, 3, 2**40))}
    if "positions" in arguments:
        changes["positions"] = lambda: {
            "positions": torch.zeros(3, 1, 2) if arguments["positions"] is None else None
        }
    kind = source.choice(list(changes))
    change = changes[kind]()
    # The values of a sparse gradient do not depend on rows, unless counted or compared.
    needs_rows = arguments.get("scale_grad_by_freq") or "num_weights" not in arguments
    if kind == "index" and "positions" not in arguments and not needs_rows:
        return None
    if change is None:
        return None
    arguments.update(change)
    return kind


def with_name(name: str, value: Tensor | None) -> dict[str, Any] | None:
    return None if value is None else {name: value}


def results_of(operator: str, bags: Bags, result: Any) -> list[Tensor]:
    """The result as a gradient; of maxima the output, after a look at their positions."""
    if operator == "sparse":
        rows = bags.indices.reshape(1, -1).long()
        return [torch.sparse_coo_tensor(rows, result, bags.weight.shape)]
    if operator != "max":
        return [result]
    output, positions = result
    flat = bags.indices.flatten().long()
    found = bags.weight.gather(0, flat[positions.clamp(min=0)]) if flat.numel() else output.clone()
    if bags.per_sample_weights is not None and flat.numel():
        factors = bags.per_sample_weights.reshape(-1)[positions.clamp(min=0)]
        found = (found.to(output.dtype).double() * factors.double()).to(output.dtype)
    found = found.masked_fill(positions < 0, 0)
    if not torch.equal(found, output):
        raise Finding(f"the maxima are not at their positions: {positions}")
    return [output]


def expected_of(operator: str, bags: Bags, upstream: Tensor) -> list[Expected]:
    size, dtype = bags.indices.numel(), bags.weight.dtype
    if operator == "factors":
        bags = dataclasses.replace(bags, per_sample_weights=torch.ones(bags.indices.shape).double())
        grad = gradients_in_float64(bags, upstream, ["per_sample_weights"])[1]
        accumulated = torch.float64 if dtype == torch.float64 else torch.float32
        return [Expected(grad, bags.weight.size(1), bags.scale(upstream), accumulated)]
    if operator == "max":
        output = gradients_in_float64(bags, None, [])[0]
        return [Expected(output, 1, bags.scale(), dtype)]
    grad = gradients_in_float64(bags, upstream, ["weight"])[1]
    return [Expected(grad, size, size_of(upstream, bags.per_sample_weights), dtype)]


# ---- smaller operators ---------------------------------------------------------------------------


def draw_coalesce(source: Source) -> Call:
    table = source.table()
    entries = source.choice((0, 1, 3, 33, 600))
    rows = source.lookups((1, entries), len(table), torch.int64)
    values = source.spread((entries, table.size(1)), table.dtype)
    faults = []
    bad = source.bad_index(rows, len(table))
    if bad is not None and entries > 1 and source.chance(0.3):  # one entry is coalesced
        rows, faults = bad, ["index"]
    gradient = torch.sparse_coo_tensor(rows, values, table.shape, check_invariants=False)

    def ours() -> Sequence[Tensor | None]:
        result = coalesce(gradient)
        if not result.is_coalesced():
            raise Finding("it is not coalesced")
        return [result.indices(), result.values()]

    def expected() -> Sequence[Expected | None]:
        theirs = gradient.double().coalesce()
        scale = size_of(values)
        return [
            Expected(theirs.indices()),
            Expected(theirs.values(), entries, scale, values.dtype),
        ]

    tensors = {"gradient": gradient}
    return Call("coalesce", tensors, ours, expected, tensors, faults=faults)


def draw_offsets(source: Source) -> Call:
    size, last = source.choice(COUNTS), source.chance(0.5)
    bags = source.choice(BAGS) if size == 0 else max(1, source.choice(BAGS))
    offsets = source.offsets(size, bags, last)
    faults = []
    bad = source.bad_offsets(offsets, size, last)
    if bad is not None and (len(bad) or size) and source.chance(0.4):
        offsets, faults = bad, ["offsets"]
    arguments = {"offsets": offsets, "num_lookups": size, "include_last_offset": last}
    return Call(
        "checked_offsets",
        arguments,
        lambda: [ops.checked_offsets(offsets, size, last)],
        lambda: [Expected(offsets.clone(), dtype=torch.int64)],
        {"offsets": offsets},
        faults=faults,
    )


def draw_dense_backward(source: Source) -> Call:
    """embedding_dense_backward, whose indices PyTorch does not check."""
    table = source.table()
    shape = source.choice(((), (0,), (1,), (33,), (600,), (7, 3), (2, 0)))
    indices = source.lookups(shape, len(table))
    upstream = source.spread((*shape, table.size(1)), table.dtype)
    padding, frequencies = source.choice((-1, -1, 0, len(table) - 1, 10**6)), source.chance(0.3)
    faults = []
    arguments: dict[str, Any] = {"grad_output": upstream, "indices": indices}
    arguments["num_weights"] = len(table)
    bad = source.bad_index(indices, len(table))
    kind = source.choice(("index", "shape", "dtype", "index dtype", "rows", "meta"))
    if source.chance(0.35) and (kind != "index" or bad is not None):
        faults = [kind]
        arguments.update(
            {
                "index": {"indices": bad},
                "shape": {"grad_output": upstream.unsqueeze(0)},
                "dtype": {"grad_output": upstream.to(source.choice(OTHER_DTYPES))},
                "index dtype": {"indices": indices.to(source.choice(NO_INDICES))},
                "rows": {"num_weights": -1},
                "meta": {"indices": torch.empty_like(indices, device="meta")},
            }[kind]
        )

    def expected() -> Sequence[Expected | None]:
        weight = table.detach().double().requires_grad_()
        kept = padding if 0 <= padding < len(table) else None
        output = F.embedding(indices.long(), weight, kept, scale_grad_by_freq=frequencies)
        (grad,) = torch.autograd.grad(output, weight, upstream.double())
        return [Expected(grad, indices.numel(), size_of(upstream), table.dtype)]

    options = {"padding_idx": padding, "scale_grad_by_freq": frequencies}
    return Call(
        "embedding_dense_backward",
        arguments | options,
        lambda: [ops.embedding_dense_backward(**arguments, **options)],
        expected,
        {n: t for n, t in arguments.items() if isinstance(t, Tensor)},
        faults=faults,
    )


DRAWS: dict[str, tuple[int, Callable[[Source], Call]]] = {
    "gradients": (12, draw_gradient),
    "dense_backward": (4, draw_dense_backward),
    "coalesce": (3, draw_coalesce),
    "offsets": (2, draw_offsets),
}
