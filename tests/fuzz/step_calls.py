"""Random steps of optimizers: embedding_update_, myemb.optim, and tables fused into backward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from bag_calls import Bags, draw_bags, gradients_in_float64
from checks import Call, Expected, Finding, size_of
from inputs import MODES
from optimizers import CASES, NUM_STATES, RULES, Oracle, eighths, ours, sparse
from source import NO_INDICES, OTHER_DTYPES, Source
from torch import Tensor
from torch.nn import Parameter

import myemb
from myemb import optim

ops = torch.ops.myemb

STEP_TERMS = 300  # a root of a sum, and what it divides


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def small(source: Source, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A gradient whose sums are exact, so that no sign of one is a matter of rounding."""
    return source.layout(eighths(*shape, dtype=dtype))


def draw_update(source: Source) -> Call:
    """One call of the operator."""
    rule = source.choice(list(RULES))
    bags = draw_bags(source)
    bags.weight = source.layout(torch.randn(bags.weight.shape).to(bags.weight.dtype))
    if bags.per_sample_weights is not None:
        bags.per_sample_weights = bags.per_sample_weights.round()
    if bags.mode == "mean" or bags.scale_grad_by_freq:  # quotients are not exact: no signs of them
        rule = source.choice(("sgd", "momentum"))
    weight = bags.weight
    _, options, own = RULES[rule]
    shape = weight.shape[:1] if rule == "row wise" else weight.shape
    state = [
        source.layout(torch.zeros(shape, dtype=accumulator(weight.dtype)))
        for _ in range(NUM_STATES[rule])
    ]
    split = weight.dtype == torch.bfloat16 and source.chance(0.3)
    if split:
        state.append(source.layout(torch.zeros(weight.shape, dtype=torch.int16)))
    form = source.choice(("dense", "sparse", "lookups"))
    arguments: dict[str, Any] = {"weight": weight, "state": state}
    if form == "dense":
        arguments["grad"] = small(source, weight.shape, weight.dtype)
    elif form == "sparse":
        rows = source.lookups((source.choice((0, 1, 7, 130)),), len(weight), torch.int64)
        values = small(source, (len(rows), weight.size(1)), weight.dtype)
        arguments["grad"] = sparse(rows, values, len(weight))
    else:
        arguments["grad"] = small(source, (bags.num_bags, weight.size(1)), weight.dtype)
        arguments |= of_lookups(bags)
    arguments |= {n: v for n, v in options.items() if n != "betas"} | own
    if split:
        arguments["rounding"] = "split"
    faults = []
    if source.chance(0.4):
        faults = [f for f in (spoil(source, form, arguments, bags),) if f]
    return update_call(form, rule, bags, arguments, split, faults)


def of_lookups(bags: Bags) -> dict[str, Any]:
    return {
        "indices": bags.indices,
        "offsets": bags.offsets,
        "positions": bags.positions() if bags.mode == "max" else None,
        "per_sample_weights": bags.per_sample_weights,
        "scale_grad_by_freq": bags.scale_grad_by_freq,
        "bag_mode": MODES.index(bags.mode),
        "include_last_offset": bags.include_last_offset,
        "padding_idx": bags.padding_idx,
    }


def gradient_of_rows(bags: Bags, upstream: Tensor) -> Tensor:
    """The gradient of the table, for the rows that were looked up, in float64."""
    dense = gradients_in_float64(bags, upstream, ["weight"])[1]
    named = bags.indices.flatten().long()
    if bags.padding_idx is not None:
        named = named[named != bags.padding_idx % len(bags.weight)]
    named = named.unique()
    return sparse(named, dense[named], len(bags.weight))


def update_call(
    form: str,
    rule: str,
    bags: Bags,
    arguments: dict[str, Any],
    split: bool,
    faults: list[str],
) -> Call:
    weight, state = bags.weight, arguments["state"]
    tensors = {n: t for n, t in arguments.items() if isinstance(t, Tensor)}
    tensors |= {f"state[{i}]": table for i, table in enumerate(state)}
    before = weight.detach().clone()
    grad = arguments["grad"]
    shown = arguments | {n: t for n, t in tensors.items() if n not in arguments}
    shown["state"] = len(state)

    def run() -> Sequence[Tensor | None]:
        ops.embedding_update_(**arguments)
        if split:
            high = weight.contiguous().view(torch.int16).int() << 16
            return [(high + state[-1].int()).view(torch.float32)]
        return [weight]

    def expected() -> Sequence[Expected | None]:
        case, options, _ = RULES[rule]
        oracle = Oracle(case, before, **options)
        gradient = grad
        if form == "lookups":
            gradient = gradient_of_rows(dataclasses.replace(bags, weight=before), grad)
        oracle.step(gradient)
        scale = size_of(before, bags.per_sample_weights)
        return [Expected(oracle.weight, STEP_TERMS, scale)]

    return Call(
        f"embedding_update_ ({form}, {rule})",
        shown,
        run,
        expected,
        tensors,
        written=("weight", *(f"state[{i}]" for i in range(len(state)))),
        faults=faults,
    )


def spoil(source: Source, form: str, arguments: dict[str, Any], bags: Bags) -> str | None:
    """Makes the arguments wrong in one way; returns which, or None if that cannot be here."""
    weight, state, grad = (arguments[name] for name in ("weight", "state", "grad"))
    changes: dict[str, Callable[[], dict[str, Any]]] = {
        "rule": lambda: {"rule": "lion"},
        "rounding": lambda: {"rounding": "up"},
        "number": lambda: {source.choice(("lr", "eps", "weight_decay")): -1.0},
        "no number": lambda: {source.choice(("lr", "eps", "beta1")): float("nan")},
        "seed": lambda: {source.choice(("seed", "step")): -1},
        "one state more": lambda: {"state": [*state, torch.zeros(weight.shape)]},
        "grad dtype": lambda: {"grad": torch.zeros(grad.shape, dtype=source.choice(OTHER_DTYPES))},
        "grad shape": lambda: {"grad": torch.zeros(len(grad) + 1, grad.size(1) + 1)},
        "grad on meta": lambda: {"grad": torch.empty(grad.shape, dtype=grad.dtype, device="meta")},
        "leaf": lambda: {"weight": weight.detach().requires_grad_()},
    }
    if state:
        changes["state dtype"] = lambda: {"state": [state[0].long(), *state[1:]]}
        changes["state shape"] = lambda: {"state": [state[0][:0], *state[1:]]}
        changes["one state less"] = lambda: {"state": state[1:]}
        if state[0].shape == weight.shape and weight.numel() > 1:
            shared = torch.zeros(1, 1, dtype=state[0].dtype).expand(weight.shape)
            changes["state overlaps"] = lambda: {"state": [shared, *state[1:]]}
        if weight.dtype == state[0].dtype and weight.shape == state[0].shape and weight.numel():
            changes["state is weight"] = lambda: {"state": [weight, *state[1:]]}
    if form == "dense" and weight.numel():
        changes["grad is weight"] = lambda: {"grad": weight}
    if form == "sparse":
        bad = source.bad_index(grad._indices(), len(weight))
        if bad is not None:
            entries = torch.sparse_coo_tensor(
                bad, grad._values(), grad.shape, check_invariants=False
            )
            changes["row"] = lambda: {"grad": entries}
    if form == "lookups":
        index = source.bad_index(bags.indices, len(weight))
        if index is not None:
            changes["index"] = lambda: {"indices": index}
        if bags.offsets is not None:
            starts = source.bad_offsets(
                bags.offsets, bags.indices.numel(), bags.include_last_offset
            )
            changes["offsets"] = lambda: {"offsets": starts}
        changes["index dtype"] = lambda: {"indices": bags.indices.to(source.choice(NO_INDICES))}
        changes["mode"] = lambda: {"bag_mode": 3}
        changes["padding"] = lambda: {"padding_idx": len(weight)}
    kind = source.choice([*changes, *(k for k in ("row", "index", "offsets") if k in changes)])
    arguments.update(changes[kind]())
    return kind


# ---- myemb.optim ---------------------------------------------------------------------------------


def draw_optimizer(source: Source) -> Call:
    """A few steps by sparse and dense gradients; now and then the last one is refused."""
    case = source.choice(list(CASES))
    dtype = source.choice((torch.float32, torch.float64))
    shape = (source.choice((1, 2, 7, 33)), source.choice((0, 1, 3, 17, 64)))
    table = Parameter(source.layout(torch.randn(shape).to(dtype)))
    gradients = []
    for _ in range(source.choice((1, 2, 3))):
        rows = torch.randint(len(table), (source.choice((0, 1, 7, 60)),))
        values = eighths(len(rows), table.size(1), dtype=dtype)
        dense = source.chance(0.3)
        gradients.append(
            eighths(*shape, dtype=dtype) if dense else sparse(rows, values, len(table))
        )
    faults = []
    optimizer = ours(case, [table])
    first, before = gradients, table.detach().clone()
    tensors: dict[str, Tensor] = {"weight": table}
    if source.chance(0.3) and len(gradients) > 1:
        bad = torch.tensor([0, source.choice((-1, len(table), 2**40))])
        gradients[-1] = sparse(bad, torch.ones(2, table.size(1), dtype=dtype), len(table))
        faults, first = ["row"], gradients[:-1]
        for gradient in first:
            table.grad = gradient
            optimizer.step()
        for name, value in optimizer.state[table].items():
            if isinstance(value, Tensor) and name != "step":  # which is counted, and set back
                tensors[name] = value

    def run() -> Sequence[Tensor | None]:
        for gradient in gradients[len(first) if faults else 0 :]:
            table.grad = gradient
            optimizer.step()
        return [table]

    def expected() -> Sequence[Expected | None]:
        oracle = Oracle(case, before)
        for gradient in gradients:
            oracle.step(gradient)
        return [Expected(oracle.weight, STEP_TERMS * 4, 4.0)]

    return Call(
        f"optimizer ({case})",
        {"weight": table} | {f"gradient {i}": g for i, g in enumerate(gradients)},
        run,
        expected,
        tensors,
        written=("weight",),
        faults=faults,
    )


def draw_fused(source: Source) -> Call:
    """A table that is updated by backward()."""
    case = source.choice(("sgd", "momentum", "adagrad", "row wise", "adamw"))
    bags = draw_bags(source)
    bags.scale_grad_by_freq, bags.per_sample_weights = False, None
    if bags.mode == "mean" and case not in ("sgd", "momentum"):
        bags.mode = "sum"
    dtype = source.choice((torch.float32, torch.float64))
    bags.weight = torch.randn(bags.weight.shape).to(dtype)
    before = bags.weight.clone()
    module = myemb.nn.EmbeddingBag.from_pretrained(
        bags.weight,
        freeze=False,
        mode=bags.mode,
        padding_idx=bags.padding_idx,
        include_last_offset=bags.include_last_offset,
        sparse=bags.mode != "max",
    )
    optimizer = ours(case, module.parameters())
    handle = optim.fuse_in_backward(optimizer, module)
    upstream = small(source, (bags.num_bags, bags.weight.size(1)), dtype)
    faults = []
    indices = bags.indices
    kind = source.choice(("index", "create_graph", "upstream"))
    bad = source.bad_index(indices, len(bags.weight))
    if source.chance(0.3):
        if kind == "index" and bad is not None:
            indices, faults = bad, [kind]
        elif kind == "create_graph":
            faults = [kind]
        elif kind == "upstream":
            upstream, faults = torch.ones(bags.num_bags + 1, bags.weight.size(1)), [kind]

    def run() -> Sequence[Tensor | None]:
        try:
            output = module(indices, bags.offsets)
            output.backward(upstream, create_graph="create_graph" in faults)
        finally:
            handle.remove()
        if module.weight.grad is not None:
            raise Finding("a gradient was stored")
        optimizer.step()  # finds nothing to do, and lived as long as its table was fused
        return [module.weight]

    def expected() -> Sequence[Expected | None]:
        oracle = Oracle(case, before)
        oracle.step(gradient_of_rows(dataclasses.replace(bags, weight=before), upstream))
        return [Expected(oracle.weight, STEP_TERMS, 2 * size_of(before))]

    arguments = {"weight": module.weight, "indices": indices, "offsets": bags.offsets}
    arguments |= {"bags": (bags.mode, bags.padding_idx, bags.include_last_offset)}
    arguments["upstream"] = upstream
    return Call(
        f"fused table ({case})",
        arguments,
        run,
        expected,
        {n: t for n, t in arguments.items() if isinstance(t, Tensor)},
        written=("weight",),
        faults=faults,
    )


DRAWS: dict[str, tuple[int, Callable[[Source], Call]]] = {
    "update": (14, draw_update),
    "optimizer": (5, draw_optimizer),
    "fused": (6, draw_fused),
}
