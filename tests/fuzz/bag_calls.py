"""Random calls of embedding_bag and of its module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import reference
import torch
import torch.nn.functional as F
from checks import Call, Expected, size_of
from inputs import FLOAT_DTYPES, MODES
from lookup_calls import as_leaf, backward, check_table, renormed, small_indices
from source import BAGS, COUNTS, MAX_NORMS, NO_INDICES, NORM_TYPES, OTHER_DTYPES, Source, on_meta
from torch import Tensor

import myemb
from myemb.functional import embedding_bag

ops = torch.ops.myemb
SIXTEEN_BIT = (torch.float16, torch.bfloat16)


@dataclasses.dataclass
class Bags:
    """Lookups of a table in bags, with nothing wrong."""

    weight: Tensor
    indices: Tensor
    offsets: Tensor | None
    include_last_offset: bool
    mode: str
    per_sample_weights: Tensor | None
    padding_idx: int | None
    scale_grad_by_freq: bool

    @property
    def num_bags(self) -> int:
        if self.offsets is None:
            return self.indices.size(0)
        return self.offsets.numel() - self.include_last_offset

    def positions(self) -> Tensor:
        """Of the maxima."""
        positions: Tensor = ops.embedding_bag_max(
            self.weight,
            self.indices,
            self.offsets,
            self.per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )[1]
        return positions

    def arguments(self) -> dict[str, Any]:
        return {
            "input": self.indices,
            "weight": self.weight,
            "offsets": self.offsets,
            "include_last_offset": self.include_last_offset,
            "mode": self.mode,
            "per_sample_weights": self.per_sample_weights,
            "padding_idx": self.padding_idx,
            "scale_grad_by_freq": self.scale_grad_by_freq,
        }

    def scale(self, *more: Tensor | None) -> float:
        return size_of(self.weight, self.per_sample_weights, *more)


def draw_bags(source: Source, special: bool = False) -> Bags:
    weight = source.table(special)
    mode = source.choice(MODES)
    last = source.chance(0.3)
    if source.chance(0.4):
        indices = source.lookups(
            (source.choice(BAGS), source.choice((0, 1, 2, 5, 33))), len(weight)
        )
        offsets = None
    else:
        size = source.choice((*COUNTS, 600))
        bags = source.choice(BAGS) if size == 0 or last else max(1, source.choice(BAGS))
        if last and bags == 0:
            size = 0
        indices = source.lookups((size,), len(weight))
        offsets = source.offsets(size, bags, last)
    factors = None
    if source.chance(0.4):
        dtype = weight.dtype
        if dtype in SIXTEEN_BIT and source.chance(0.3):
            dtype = torch.float32
        factors = source.spread(indices.shape, dtype)
        if mode == "max":  # rounded products could be equal that are not so in float64
            factors = factors.round()
            weight = weight.nan_to_num_(
                0, 0, 0
            )  # reference.py gives NaN times 0 to what is no maximum
    rows = len(weight)
    return Bags(
        weight,
        indices,
        offsets,
        last,
        mode,
        factors,
        source.choice((None, None, 0, -1, rows - 1, -rows)),
        mode != "max" and not special and source.chance(0.3),
    )


def in_float64(bags: Bags, table: Tensor, factors: Tensor | None) -> Tensor:
    """The output, by PyTorch where it has it, otherwise by tests/python/reference.py."""
    own = factors is not None and bags.mode != "sum"
    empty = bags.indices.dim() == 2 and bags.indices.size(1) == 0
    options = {
        "mode": bags.mode,
        "per_sample_weights": factors,
        "scale_grad_by_freq": bags.scale_grad_by_freq,
        "include_last_offset": bags.include_last_offset,
        "padding_idx": bags.padding_idx,
    }
    indices = bags.indices.long()
    offsets = None if bags.offsets is None else bags.offsets.long()
    if own or empty:
        return reference.bag(table, indices, offsets, **options)
    return F.embedding_bag(indices, table, offsets, **options)


def gradients_in_float64(
    bags: Bags, upstream: Tensor | None, wanted: Sequence[str]
) -> list[Tensor]:
    """The output and its gradients for ``weight`` and ``per_sample_weights``, as wanted."""
    leaves = {"weight": bags.weight.detach().double().requires_grad_()}
    if bags.per_sample_weights is not None:
        leaves["per_sample_weights"] = bags.per_sample_weights.detach().double().requires_grad_()
    output = in_float64(bags, leaves["weight"], leaves.get("per_sample_weights"))
    if upstream is None:
        return [output.detach()]
    grads = (
        torch.autograd.grad(
            output,
            [leaves[name] for name in wanted],
            upstream.double(),
            materialize_grads=True,
            allow_unused=True,
        )
        if output.requires_grad
        else [torch.zeros_like(leaves[name]) for name in wanted]
    )
    return [output.detach(), *grads]


# ---- embedding_bag -------------------------------------------------------------------------------


def spoil_bags(source: Source, bags: Bags, arguments: dict[str, Any]) -> str | None:
    """Makes the arguments wrong in one way; returns which, or None if that cannot be here."""
    weight, indices, offsets = bags.weight, bags.indices, bags.offsets
    rows, size = len(weight), indices.numel()
    index = source.bad_index(indices, rows)
    start = None
    if offsets is not None:
        start = source.bad_offsets(offsets, size, bags.include_last_offset)
    dims = source.choice((weight[0], weight.unsqueeze(0), weight.new_zeros(())))
    shape = source.choice(((size + 1,), (*indices.shape, 1), ()))
    wrong = torch.float64 if weight.dtype != torch.float64 else torch.float32
    changes: dict[str, dict[str, Any]] = {
        "index": {"input": None if index is None else source.layout(index)},
        "offsets": {"offsets": start},
        "index dtype": {"input": indices.to(source.choice(NO_INDICES))},
        "dims": {"weight": dims},
        "padding": {"padding_idx": source.choice((rows, -rows - 1, 2**40))},
        "integers": {"weight": weight.to(source.choice(OTHER_DTYPES))},
        "mode": {"mode": source.choice(("min", "SUM", "", None, 0))},
        "options of max": {"mode": "max", source.choice(("sparse", "scale_grad_by_freq")): True},
        "factors": {"per_sample_weights": torch.ones(shape, dtype=weight.dtype)},
        "factors dtype": {
            "per_sample_weights": torch.ones(
                indices.shape, dtype=source.choice((wrong, torch.int64))
            )
        },
        "form": {"offsets": torch.zeros(len(indices), dtype=torch.int64)},
    }
    if offsets is not None:
        changes["offsets dtype"] = {"offsets": offsets.to(source.choice(NO_INDICES))}
        changes["form"] = {"offsets": source.choice((None, offsets.unsqueeze(0)))}
    likely = [kind for kind in ("index", "offsets") if None not in changes[kind].values()]
    others = [kind for kind in changes if kind not in ("index", "offsets")]
    kind = source.choice([*others, *likely, *likely, *likely, "meta", "none"])
    if kind == "meta":
        names = [n for n, v in arguments.items() if isinstance(v, Tensor)]
        on_meta(arguments, source.choice(names))
    elif kind == "none":
        arguments[source.choice(("input", "weight"))] = None
    else:
        arguments.update(changes[kind])
    return kind


def draw_embedding_bag(source: Source) -> Call:
    bags = draw_bags(source, special=source.chance(0.1))
    arguments = bags.arguments() | {
        "sparse": bags.mode != "max" and source.chance(0.3),
        "max_norm": source.choice((None, None, None, *MAX_NORMS)),
        "norm_type": source.choice(NORM_TYPES),
    }
    faults = []
    if source.chance(0.35):
        faults = [f for f in (spoil_bags(source, bags, arguments),) if f]
    return embedding_bag_call(source, bags, arguments, faults)


def embedding_bag_call(
    source: Source, bags: Bags, arguments: dict[str, Any], faults: list[str]
) -> Call:
    tensors = {n: t for n, t in arguments.items() if isinstance(t, Tensor)}
    before = bags.weight.clone()
    wanted = [n for n in ("weight", "per_sample_weights") if n in tensors and source.chance(0.7)]
    wanted = [n for n in wanted if tensors[n].dtype in FLOAT_DTYPES]
    upstream = None
    if wanted and not faults:
        upstream = source.spread((bags.num_bags, bags.weight.size(1)), bags.weight.dtype)
        tensors["upstream"] = upstream
    max_norm = arguments["max_norm"]
    form = source.choice(("function", "module"))
    if {"dims", "none", "padding"} & set(faults):
        form = "function"

    def ours() -> Sequence[Tensor | None]:
        given = dict(arguments)
        for name in wanted:
            given[name] = as_leaf(given[name], True)
        if form == "function":
            output = embedding_bag(**given)
        else:
            weight = given.pop("weight")
            call = [given.pop(name) for name in ("input", "offsets", "per_sample_weights")]
            module = myemb.nn.EmbeddingBag.from_pretrained(
                weight, freeze="weight" not in wanted, **given
            )
            given["weight"] = module.weight
            output = module(*call)
            given["per_sample_weights"] = call[2]
        leaves = [given[name] for name in wanted]
        return [bags.weight, *backward(output, leaves, upstream)]

    def theirs() -> Any:
        copies = {n: v.clone() if isinstance(v, Tensor) else v for n, v in arguments.items()}
        return F.embedding_bag(**copies)

    return Call(
        f"embedding_bag ({form})",
        arguments,
        ours,
        lambda: expected_of(bags, before, arguments, upstream, wanted),
        tensors,
        None if {"offsets", "meta"} & set(faults) else theirs,  # PyTorch may crash on offsets
        ("weight",) if max_norm is not None else (),
        faults,
        departures_of(arguments, faults),
    )


def expected_of(
    bags: Bags,
    before: Tensor,
    arguments: dict[str, Any],
    upstream: Tensor | None,
    wanted: Sequence[str],
) -> Sequence[Expected | None]:
    """The table, the output and the gradients."""
    after = renormed(before, bags.indices, arguments["max_norm"], arguments["norm_type"])
    output, *grads = gradients_in_float64(bags, upstream, wanted)
    size, dtype = bags.indices.numel(), bags.weight.dtype
    factors = bags.per_sample_weights
    results = [
        check_table(bags.weight, before, after),
        Expected(output, size, bags.scale(), dtype),
    ]
    for name, grad in zip(wanted, grads, strict=False):
        if name == "weight":
            results.append(Expected(grad, size, size_of(upstream, factors), dtype))
        else:
            assert factors is not None
            scale, terms = size_of(upstream, bags.weight), bags.weight.size(1)
            results.append(Expected(grad, terms, scale, factors.dtype))
    return results


def departures_of(arguments: dict[str, Any], faults: list[str]) -> list[str]:
    """Why PyTorch may decide otherwise about a call."""
    weight, indices, offsets = (arguments[n] for n in ("weight", "input", "offsets"))
    factors = arguments["per_sample_weights"]
    found = small_indices(indices, offsets)
    if factors is not None and arguments["mode"] != "sum":
        found.append("per_sample_weights in modes mean and max")
    is_16_bit = weight is not None and weight.dtype in SIXTEEN_BIT
    if is_16_bit and factors is not None and factors.dtype == torch.float32:
        found.append("float32 per_sample_weights of a 16-bit table")
    if arguments["sparse"] and arguments["scale_grad_by_freq"]:
        found.append("frequencies with a sparse gradient")
    if indices is not None and indices.dim() == 2 and indices.size(1) == 0:
        found.append("bags of length 0")
    if weight is not None and weight.dim() == 2 and weight.size(1) == 0:
        found.append("bags of rows without columns")
    if {"index dtype", "offsets dtype"} & set(faults):
        found.append("int8 and bool indices that offsets of another dtype promote")
    return found


DRAWS: dict[str, tuple[int, Callable[[Source], Call]]] = {"embedding_bag": (30, draw_embedding_bag)}
