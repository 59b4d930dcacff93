"""Random calls of embedding and embedding_renorm_."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from checks import Call, Expected, Finding, size_of
from inputs import FLOAT_DTYPES
from source import MAX_NORMS, NO_INDICES, NORM_TYPES, OTHER_DTYPES, Source, on_meta
from torch import Tensor

import myemb
from myemb.functional import embedding, embedding_renorm_

SHAPES = ((), (0,), (1,), (3,), (33,), (300,), (2, 0), (0, 3), (7, 3), (2, 3, 4), (33, 7))
OVERLAPS = "a table that overlaps itself has no max_norm"
INTEGERS = "an integer table has no max_norm, even if nothing is looked up"
NO_COLUMNS = "the norm of a row without columns"
SMALL_INDICES = "uint8 and int16 indices"


def small_indices(*tensors: Tensor | None) -> list[str]:
    small = (torch.uint8, torch.int16)
    return [SMALL_INDICES] if any(t is not None and t.dtype in small for t in tensors) else []


def as_leaf(tensor: Tensor, wanted: bool) -> Tensor:
    return tensor.detach().requires_grad_() if wanted else tensor


def backward(
    output: Tensor, leaves: Sequence[Tensor], upstream: Tensor | None
) -> list[Tensor | None]:
    """The output and the gradients of the leaves, of which there may be none."""
    if not leaves:
        return [output]
    grads = torch.autograd.grad(output, leaves, upstream, allow_unused=True)
    return [output.detach(), *grads]


def renormed(table: Tensor, indices: Tensor, max_norm: float | None, norm_type: float) -> Tensor:
    """The table after max_norm, by PyTorch in float64."""
    result = table.detach().double()
    if max_norm is None or result.size(1) == 0:  # PyTorch refuses an infinite norm of nothing
        return result
    with torch.no_grad():
        return torch.embedding_renorm_(result, indices.long(), max_norm, norm_type)


def check_table(after: Tensor, before: Tensor, expected: Tensor) -> Expected:
    return Expected(expected, before.size(1) + 4, size_of(before), before.dtype)


# ---- embedding -----------------------------------------------------------------------------------


def spoil_lookup(source: Source, arguments: dict[str, Any]) -> str | None:
    """Makes the arguments wrong in one way; returns which, or None if that cannot be here."""
    weight, rows = arguments["weight"], arguments["weight"].size(0)
    kind = source.choice(
        ("index", "index", "dtype", "dims", "padding", "meta", "none", "norm", "overlap", "text")
    )
    if kind == "index":
        bad = source.bad_index(arguments["input"], rows)
        if bad is None:
            return None
        arguments["input"] = source.layout(bad)
    elif kind == "dtype":
        arguments["input"] = arguments["input"].to(source.choice(NO_INDICES))
    elif kind == "dims":
        arguments["weight"] = source.choice((weight[0], weight.unsqueeze(0), weight.new_zeros(())))
    elif kind == "padding":
        arguments["padding_idx"] = source.choice((rows, -rows - 1, rows + 100, 2**40))
    elif kind == "meta":
        on_meta(arguments, source.choice(("input", "weight")))
    elif kind == "none":
        arguments[source.choice(("input", "weight"))] = None
    elif kind == "norm":
        arguments["weight"] = weight.to(source.choice((torch.int64, torch.bool)))
        arguments["max_norm"] = 1.0
    elif kind == "overlap":
        if rows < 2 or weight.size(1) == 0:
            return None
        arguments["weight"] = weight[:1].expand(rows, -1)
        arguments["max_norm"] = 1.0
    else:
        arguments["max_norm"] = "one"
    return kind


def draw_embedding(source: Source) -> Call:
    special = source.chance(0.1)
    weight = source.table(special)
    if source.chance(0.1):
        weight = source.spread(weight.shape, weight.dtype, special)
    arguments: dict[str, Any] = {
        "input": source.lookups(source.choice(SHAPES), weight.size(0)),
        "weight": weight,
        "padding_idx": source.choice((None, 0, -1, weight.size(0) - 1)),
        "max_norm": source.choice((None, None, None, *MAX_NORMS)),
        "norm_type": source.choice(NORM_TYPES),
        "scale_grad_by_freq": source.chance(0.3),
        "sparse": source.chance(0.3),
    }
    overlaps = 0 in weight.stride() and weight.size(0) > 0
    if overlaps:
        arguments["max_norm"] = None
    faults = []
    if source.chance(0.3):
        faults = [f for f in (spoil_lookup(source, arguments),) if f]
    elif source.chance(0.1):
        arguments["weight"] = weight.nan_to_num(0, 0, 0).to(source.choice(OTHER_DTYPES))
        arguments["max_norm"] = None
    return embedding_call(source, arguments, faults)


def embedding_call(source: Source, arguments: dict[str, Any], faults: list[str]) -> Call:
    weight, indices = arguments["weight"], arguments["input"]
    differentiable = weight is not None and weight.dtype in FLOAT_DTYPES and source.chance(0.7)
    tensors = {n: t for n, t in arguments.items() if isinstance(t, Tensor)}
    before = None if weight is None else weight.clone()
    upstream = None
    if differentiable and not faults:
        upstream = source.spread((*indices.shape, weight.size(1)), weight.dtype)
        tensors["upstream"] = upstream
    form = source.choice(("function", "module"))
    if weight is None or weight.dim() != 2 or "padding" in faults:
        form = "function"

    def ours() -> Sequence[Tensor | None]:
        table = as_leaf(weight, differentiable) if weight is not None else weight
        if form == "function":
            output = embedding(**{**arguments, "weight": table})
        else:
            options = {n: v for n, v in arguments.items() if n not in ("input", "weight")}
            output = myemb.nn.Embedding.from_pretrained(
                table, freeze=not differentiable, **options
            )(indices)
            if differentiable:
                table = output.grad_fn.next_functions[0][0].variable  # the module's parameter
        return [weight, *backward(output, [table] if differentiable else [], upstream)]

    def theirs() -> Any:
        return F.embedding(
            **{n: v.clone() if isinstance(v, Tensor) else v for n, v in arguments.items()}
        )

    return Call(
        f"embedding ({form})",
        arguments,
        ours,
        lambda: expected_of_embedding(arguments, before, upstream),
        tensors,
        None if "meta" in faults else theirs,
        ("weight",) if arguments["max_norm"] is not None else (),
        faults,
        departures_of(arguments, faults),
    )


def expected_of_embedding(
    arguments: dict[str, Any], before: Tensor | None, upstream: Tensor | None
) -> Sequence[Expected | None]:
    """The table, the output and the gradient."""
    weight, indices = arguments["weight"], arguments["input"].long()
    assert before is not None
    if weight.dtype not in FLOAT_DTYPES:
        return [Expected(before), Expected(F.embedding(indices, before), dtype=weight.dtype)]
    after = renormed(before, indices, arguments["max_norm"], arguments["norm_type"])
    table = weight.detach().double().requires_grad_()
    frequencies = arguments["scale_grad_by_freq"]
    output = F.embedding(indices, table, arguments["padding_idx"], scale_grad_by_freq=frequencies)
    results = [
        check_table(weight, before, after),
        Expected(output.detach(), 0, 0.0, weight.dtype),
    ]
    if upstream is not None:
        (grad,) = torch.autograd.grad(output, table, upstream.double())
        results.append(Expected(grad, indices.numel(), size_of(upstream), weight.dtype))
    return results


def departures_of(arguments: dict[str, Any], faults: list[str]) -> list[str]:
    """Why PyTorch may decide otherwise about a call."""
    weight, indices = arguments["weight"], arguments["input"]
    found = small_indices(indices)
    if "overlap" in faults:
        found.append(OVERLAPS)
    if "norm" in faults and indices.numel() == 0:
        found.append(INTEGERS)
    has_norm = arguments["max_norm"] is not None and weight is not None and weight.dim() == 2
    if has_norm and weight.size(1) == 0:
        found.append(NO_COLUMNS)
    return found


# ---- embedding_renorm_ ---------------------------------------------------------------------------


def spoil_renorm(source: Source, tensors: dict[str, Tensor], grad_mode: bool) -> list[str]:
    """Makes the tensors wrong in one way; returns which, or nothing if that cannot be here."""
    weight, indices = tensors["weight"], tensors["indices"]
    changes: dict[str, dict[str, Tensor]] = {
        "dtype": {"indices": indices.to(source.choice(NO_INDICES))},
        "dims": {"weight": source.choice((weight[0], weight.unsqueeze(0)))},
        "meta": {"indices": torch.empty_like(indices, device="meta")},
        "integers": {"weight": weight.long()},
    }
    bad = source.bad_index(indices, weight.size(0))
    if bad is not None:
        changes["index"] = {"indices": source.layout(bad)}
    if weight.size(0) > 1 and weight.size(1) > 0:
        changes["overlap"] = {"weight": weight[:1].expand(weight.size(0), -1)}
    if grad_mode:
        changes["leaf"] = {"weight": weight.detach().requires_grad_()}
    kind = source.choice(list(changes))
    tensors.update(changes[kind])
    return [kind]


def draw_renorm(source: Source) -> Call:
    weight = source.table(source.chance(0.2))
    indices = source.lookups(source.choice(SHAPES), weight.size(0))
    max_norm, norm_type = source.choice(MAX_NORMS), source.choice(NORM_TYPES)
    faults = []
    tensors = {"weight": weight, "indices": indices}
    grad_mode = source.chance(0.5)
    if source.chance(0.4):
        faults = spoil_renorm(source, tensors, grad_mode)
    before = tensors["weight"].detach().clone()

    def ours() -> Sequence[Tensor | None]:
        with torch.set_grad_enabled(grad_mode):
            result = embedding_renorm_(tensors["weight"], tensors["indices"], max_norm, norm_type)
        if result is not tensors["weight"]:
            raise Finding("the result is another tensor")
        return [result]

    def expected() -> Sequence[Expected | None]:
        after = renormed(before, tensors["indices"], max_norm, norm_type)
        return [check_table(tensors["weight"], before, after)]

    def theirs() -> Any:
        return torch.embedding_renorm_(before, tensors["indices"].clone(), max_norm, norm_type)

    departures = small_indices(tensors["indices"])
    if "index" in faults:
        departures.append("negative indices in embedding_renorm_")
    if "overlap" in faults:
        departures.append(OVERLAPS)
    if "integers" in faults and indices.numel() == 0:
        departures.append(INTEGERS)
    if weight.size(1) == 0:
        departures.append(NO_COLUMNS)
    asked = not {"meta", "leaf"} & set(faults)
    return Call(
        "embedding_renorm_",
        {**tensors, "max_norm": max_norm, "norm_type": norm_type, "grad mode": grad_mode},
        ours,
        expected,
        tensors,
        theirs if asked else None,
        ("weight",),
        faults,
        departures,
    )


DRAWS: dict[str, tuple[int, Callable[[Source], Call]]] = {
    "embedding": (25, draw_embedding),
    "renorm": (8, draw_renorm),
}
