"""Random calls of many tables: embedding_bag_tables and EmbeddingBagCollection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from bag_calls import SIXTEEN_BIT, Bags, in_float64
from checks import Call, Expected, size_of
from inputs import FLOAT_DTYPES, MODES
from lookup_calls import backward, check_table, renormed
from source import MAX_NORMS, NO_INDICES, NORM_TYPES, OTHER_DTYPES, Source
from torch import Tensor

from myemb.functional import embedding_bag_tables
from myemb.nn import EmbeddingBag, EmbeddingBagCollection


@dataclasses.dataclass
class Tables:
    """A batch of several features, with nothing wrong."""

    weights: list[Tensor]
    features: list[int]
    indices: Tensor
    offsets: Tensor
    num_bags: int
    modes: list[str]
    sparse: list[bool]
    padding: list[int | None]
    factors: Tensor | None
    norms: list[float | None]
    norm_types: list[float]

    def arguments(self) -> dict[str, Any]:
        some = any(norm is not None for norm in self.norms)
        return {
            "input": self.indices,
            "weights": self.weights,
            "offsets": self.offsets,
            "feature_tables": self.features,
            "mode": self.modes,
            "sparse": self.sparse,
            "per_sample_weights": self.factors,
            "padding_idx": self.padding,
            "max_norm": self.norms if some else None,
            "norm_type": self.norm_types,
        }

    def of_feature(self, feature: int) -> tuple[slice, Bags]:
        """The lookups of one feature, and these as bags of their own."""
        first = feature * self.num_bags
        starts = self.offsets.long()[first : first + self.num_bags + 1]
        own = slice(int(starts[0]), int(starts[-1]))
        table = self.features[feature]
        factors = None if self.factors is None else self.factors[own]
        return own, Bags(
            self.weights[table],
            self.indices[own],
            starts - starts[0],
            True,
            self.modes[table],
            factors,
            self.padding[table],
            False,
        )


def draw_tables(source: Source) -> Tables:
    count = source.choice((1, 2, 3, 4))
    factors_dtype = source.choice((None, None, torch.float32))
    dtypes = [source.choice(FLOAT_DTYPES) for _ in range(count)]
    if factors_dtype:
        dtypes = [source.choice((torch.float32, *SIXTEEN_BIT)) for _ in range(count)]
    weights = [source.table(dtype=dtype) for dtype in dtypes]
    features = list(range(count))
    if source.chance(0.6):
        features = [source.random.randrange(count) for _ in range(source.choice((1, 2, 3, 6)))]
    num_bags = source.choice((0, 1, 2, 7, 33))
    counts = torch.randint(source.choice((1, 3, 9, 40)), (len(features) * num_bags,))
    dtype = source.index_dtype()
    parts = [
        source.lookups((int(own.sum()),), len(weights[table]), dtype)
        for own, table in zip(counts.view(len(features), -1), features, strict=True)
    ]
    lookups = source.layout(torch.cat(parts))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    modes = [source.choice(MODES) for _ in range(count)]
    factors = None
    if factors_dtype:
        factors = source.layout(source.values(lookups.shape, factors_dtype).round())
    with_norms = source.chance(0.3)
    return Tables(
        weights,
        features,
        lookups,
        source.layout(starts.to(source.choice((torch.int64, torch.int32)))),
        num_bags,
        modes,
        [mode != "max" and source.chance(0.3) for mode in modes],
        [source.choice((None, None, 0, -1, len(weight) - 1)) for weight in weights],
        factors,
        [source.choice((None, *MAX_NORMS)) if with_norms else None for _ in range(count)],
        [source.choice(NORM_TYPES) for _ in range(count)],
    )


def spoil(source: Source, tables: Tables, arguments: dict[str, Any]) -> str | None:
    """Makes the arguments wrong in one way; returns which, or None if that cannot be here."""
    count, size = len(tables.weights), tables.indices.numel()
    feature = source.random.randrange(len(tables.features))
    weights = list(tables.weights)
    changes: dict[str, Callable[[], Any]] = {
        "index dtype": lambda: ("input", tables.indices.to(source.choice(NO_INDICES))),
        "input dims": lambda: ("input", tables.indices.unsqueeze(0)),
        "offsets dtype": lambda: ("offsets", tables.offsets.to(source.choice(NO_INDICES))),
        "offsets size": lambda: ("offsets", tables.offsets.new_empty(0)),
        "features": lambda: ("feature_tables", [*tables.features[:-1], source.choice((count, -1))]),
        "no features": lambda: ("feature_tables", []),
        "mode": lambda: ("mode", source.choice(("min", [*tables.modes, "sum"]))),
        "sparse": lambda: ("sparse", [*tables.sparse, True]),
        "sparse max": lambda: ("sparse", True) if "max" in tables.modes else None,
        "padding": lambda: ("padding_idx", [len(tables.weights[0]) + 1, *tables.padding[1:]]),
        "factors": lambda: ("per_sample_weights", torch.ones(size + 1)),
        "factors dtype": lambda: ("per_sample_weights", torch.ones(size).long()),
        "norms": lambda: ("max_norm", [1.0] * (count + 1)),
        "meta": lambda: ("input", torch.empty_like(tables.indices, device="meta")),
    }
    own, bags = tables.of_feature(feature)
    bad = source.bad_index(bags.indices, len(bags.weight))
    if bad is not None:
        spoiled = tables.indices.clone()
        spoiled[own] = bad
        changes["index"] = lambda: ("input", spoiled)
    wrong = source.bad_offsets(tables.offsets, size, True)
    if wrong is not None and len(wrong):
        changes["offsets"] = lambda: ("offsets", wrong)
    if len(tables.features) > 1:
        longer = torch.cat([tables.offsets, tables.offsets[-1:]])
        changes["offsets size"] = lambda: ("offsets", longer)
    table = source.random.randrange(count)
    weights[table] = source.choice(
        (weights[table][0], weights[table].to(source.choice(OTHER_DTYPES)))
    )
    changes["table"] = lambda: ("weights", weights)
    kind = source.choice([*changes] + ["index"] * 5 * ("index" in changes))
    change = changes[kind]()
    if change is None:
        return None
    arguments[change[0]] = change[1]
    return kind


@dataclasses.dataclass
class Batch:
    """One call of tables: arguments, which may be wrong, and how it is made."""

    tables: Tables
    arguments: dict[str, Any]
    before: list[Tensor]
    upstream: Tensor | None
    with_factors: bool
    in_collection: bool

    @property
    def read(self) -> list[Tensor]:
        return [self.tables.weights[table] for table in self.tables.features]

    def run(self) -> Sequence[Tensor | None]:
        """The tables, the output of each feature, and the gradients."""
        tables, given = self.tables, dict(self.arguments)
        leaves: list[Tensor] = []
        if self.upstream is not None:
            leaves = [weight.detach().requires_grad_() for weight in tables.weights]
            given["weights"] = leaves
            if self.with_factors:
                assert tables.factors is not None
                leaves = [*leaves, tables.factors.detach().requires_grad_()]
                given["per_sample_weights"] = leaves[-1]
        output = self.collected(leaves) if self.in_collection else embedding_bag_tables(**given)
        output, *grads = backward(output, leaves, self.upstream)
        assert output is not None
        return [*tables.weights, *output.split([w.size(1) for w in self.read], 1), *grads]

    def collected(self, leaves: list[Tensor]) -> Tensor:
        """The output of a collection of modules, whose parameters become the leaves."""
        tables = self.tables
        bags = [
            EmbeddingBag.from_pretrained(
                weight,
                freeze=False,
                mode=tables.modes[t],
                sparse=tables.sparse[t],
                padding_idx=tables.padding[t],
                max_norm=tables.norms[t],
                norm_type=tables.norm_types[t],
            )
            for t, weight in enumerate(tables.weights)
        ]
        features = [f"{table} {feature}" for feature, table in enumerate(tables.features)]
        names = {
            f"table_{t}": [name for name in features if name.startswith(f"{t} ")]
            for t in range(len(bags))
        }
        collection = EmbeddingBagCollection.from_embedding_bags(bags, names)
        if leaves:
            leaves[:] = [bag.weight for bag in bags]
        batch = {}
        for feature, name in enumerate(features):
            own = tables.of_feature(feature)[1]
            assert own.offsets is not None
            batch[name] = (own.indices, own.offsets[:-1])
        rows = collection(batch, output="by_feature")
        return torch.cat([rows[name] for name in features], 1)

    def expected(self) -> Sequence[Expected | None]:
        """The same, feature by feature."""
        tables = self.tables
        after = [weight.detach().double() for weight in self.before]
        leaves = [weight.detach().double().requires_grad_() for weight in tables.weights]
        factors = None
        if tables.factors is not None:
            factors = tables.factors.detach().double().requires_grad_()
        outputs = []
        for feature, table in enumerate(tables.features):
            own, bags = tables.of_feature(feature)
            norm, norm_type = tables.norms[table], tables.norm_types[table]
            after[table] = renormed(after[table], bags.indices, norm, norm_type)
            outputs.append(
                in_float64(bags, leaves[table], None if factors is None else factors[own])
            )
        results = [
            check_table(weight, old, new)
            for weight, old, new in zip(tables.weights, self.before, after, strict=True)
        ]
        type_ = type_of(self.read)
        size, scale = tables.indices.numel(), size_of(tables.factors)
        for weight, output in zip(self.read, outputs, strict=True):  # rounded as its table is
            sizes = scale * size_of(weight)
            results.append(Expected(output.detach(), size, sizes, type_, weight.dtype))
        if self.upstream is None:
            return results
        inputs = leaves if factors is None else [*leaves, factors]
        upstream = self.upstream.double()
        grads = torch.autograd.grad(torch.cat(outputs, 1), inputs, upstream, materialize_grads=True)
        for weight, grad in zip(tables.weights, grads, strict=False):
            rounded = size if weight.dtype != type_ else 0  # upstream, to the type of the table
            sizes = scale * size_of(upstream)
            results.append(Expected(grad, size, sizes, weight.dtype, rounded_terms=rounded))
        if self.with_factors:
            sizes = size_of(upstream) * max(map(size_of, tables.weights))
            coarse = max((w.dtype for w in self.read), key=lambda dtype: torch.finfo(dtype).eps)
            results.append(Expected(grads[-1], 130, sizes, torch.float32, coarse, 130))
        return results


def type_of(weights: Sequence[Tensor]) -> torch.dtype:
    """What they promote to."""
    dtype = weights[0].dtype
    for weight in weights[1:]:
        dtype = torch.promote_types(dtype, weight.dtype)
    return dtype


def draw_tables_call(source: Source) -> Call:
    tables = draw_tables(source)
    arguments = tables.arguments()
    faults = []
    if source.chance(0.35):
        faults = [f for f in (spoil(source, tables, arguments),) if f]
    tensors = {n: t for n, t in arguments.items() if isinstance(t, Tensor)}
    tensors |= {f"weights[{t}]": weight for t, weight in enumerate(arguments["weights"])}
    shown = arguments | {n: t for n, t in tensors.items() if n not in arguments}
    shown["weights"] = len(tables.weights)
    batch = Batch(
        tables,
        arguments,
        [weight.clone() for weight in tables.weights],
        None,
        tables.factors is not None and source.chance(0.5),
        not faults and tables.factors is None and source.chance(0.5),
    )
    if not faults and source.chance(0.8):
        shape = (tables.num_bags, sum(weight.size(1) for weight in batch.read))
        batch.upstream = tensors["upstream"] = source.spread(shape, type_of(batch.read))
    return Call(
        f"embedding_bag_tables ({'collection' if batch.in_collection else 'function'})",
        shown,
        batch.run,
        batch.expected,
        tensors,
        written=tuple(f"weights[{t}]" for t, n in enumerate(tables.norms) if n is not None),
        faults=faults,
    )


DRAWS: dict[str, tuple[int, Callable[[Source], Call]]] = {"tables": (12, draw_tables_call)}
