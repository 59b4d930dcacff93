"""Many tables in one call: ``myemb.nn.Table`` and ``myemb.nn.EmbeddingBagCollection``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._features import Batch, join_features, take_features
from .functional import embedding_bag_tables
from .nn import EmbeddingBag

__all__ = ["EmbeddingBagCollection", "Table"]

_OUTPUTS = ("concatenated", "by_feature")
_TORCHREC_DTYPES = {"FP64": torch.float64, "FP32": torch.float32, "FP16": torch.float16} | {
    "BF16": torch.bfloat16
}


@dataclasses.dataclass
class Table:
    """One table of an :class:`EmbeddingBagCollection`; the options are ``nn.EmbeddingBag``'s.

    Attributes:
        num_embeddings: Rows.
        embedding_dim: Columns.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        name: By default ``table_0``, ``table_1`` and so on, by its place.
        features: The features that read it; by default one of its own name.
        padding_idx: A row that is left out of bags and gets no gradient.
        max_norm: The largest norm that a row may keep when it is looked up.
        norm_type: The p of that p-norm.
        sparse: Whether the gradient is a sparse tensor.
        device: Of the weight.
        dtype: Of the weight.
    """

    num_embeddings: int
    embedding_dim: int
    mode: str = "mean"
    name: str | None = None
    features: Sequence[str] | None = None
    padding_idx: int | None = None
    max_norm: float | None = None
    norm_type: float = 2.0
    sparse: bool = False
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def make_bag(self) -> EmbeddingBag:
        """A new module with these options, initialised as ``nn.EmbeddingBag`` is."""
        return EmbeddingBag(
            self.num_embeddings,
            self.embedding_dim,
            max_norm=self.max_norm,
            norm_type=self.norm_type,
            mode=self.mode,
            sparse=self.sparse,
            padding_idx=self.padding_idx,
            device=self.device,
            dtype=self.dtype,
        )


class EmbeddingBagCollection(torch.nn.Module):
    """The bags of many features, from as many tables, in one call.

    What ``torch.cat([table(*batch[feature]) for ...], 1)`` over an ``nn.EmbeddingBag`` per table
    gives, as one operator forwards and one backwards. Tables differ in size, width, mode, dtype
    and kind of gradient, and several features may read one table.

    The tables are modules, ``collection.tables[name]``, with parameters ``tables.<name>.weight``:
    each can be initialised, frozen and given an optimizer by itself. Their options are read at
    every call.

    Args:
        tables: Descriptions of new tables.
        output: What ``forward`` returns: ``"concatenated"``, the features side by side in the order
            of :attr:`features`, or ``"by_feature"``, a dict.

    Example::

        >>> tables = [
        ...     Table(1000, 16, name="films", features=["liked", "seen"]),
        ...     Table(50, 8, name="genres", mode="max"),
        ... ]
        >>> collection = EmbeddingBagCollection(tables)
        >>> collection({"liked": liked, "seen": seen, "genres": (genres, offsets)})   # (B, 40)
    """

    def __init__(self, tables: Iterable[Table], output: str = "concatenated") -> None:
        super().__init__()
        tables = list(tables)
        names = [f"table_{i}" if t.name is None else t.name for i, t in enumerate(tables)]
        bags = [table.make_bag() for table in tables]
        features = [
            [name] if table.features is None else list(table.features)
            for name, table in zip(names, tables, strict=True)
        ]
        self._set_tables(names, bags, features, output)

    @classmethod
    def from_embedding_bags(
        cls,
        bags: Iterable[torch.nn.Module] | Mapping[str, torch.nn.Module] | torch.nn.ModuleDict,
        features: Mapping[str, Sequence[str]] | None = None,
        output: str = "concatenated",
    ) -> EmbeddingBagCollection:
        """A collection of existing modules, which are shared and not copied.

        Args:
            bags: The tables; a mapping, such as a ``ModuleDict``, names them.
            features: The features of a table by its name; by default one of its own name.
            output: As in the constructor.

        Raises:
            ValueError: A module has ``scale_grad_by_freq`` or a ``forward`` of its own.
        """
        named: dict[str, torch.nn.Module]
        if isinstance(bags, (Mapping, torch.nn.ModuleDict)):
            named = dict(bags.items())
        else:
            named = {f"table_{i}": bag for i, bag in enumerate(bags)}
        self = cls.__new__(cls)
        torch.nn.Module.__init__(self)
        names = list(named.keys())
        wanted = features or {}
        if unknown := set(wanted) - set(names):
            raise ValueError(f"features names tables that there are not: {sorted(unknown)}")
        read = [list(wanted.get(name, [name])) for name in names]
        self._set_tables(names, [named[name] for name in names], read, output)
        return self

    @classmethod
    def from_torchrec(
        cls, configs: Iterable[Any], output: str = "concatenated", device: Any = None
    ) -> EmbeddingBagCollection:
        """New tables as TorchRec's ``EmbeddingBagConfig`` objects describe them.

        Args:
            configs: Objects with ``name``, ``num_embeddings``, ``embedding_dim``,
                ``feature_names``, ``pooling`` and, if they are there, ``data_type`` and
                ``init_fn``.
            output: As in the constructor.
            device: Of the weights.

        Raises:
            ValueError: A pooling or data type is none that tables here have.
        """
        configs = list(configs)
        tables = [_table_of_torchrec(config, device) for config in configs]
        self = cls(tables, output)
        for config, bag in zip(configs, self.tables.values(), strict=True):
            if init := getattr(config, "init_fn", None):
                with torch.no_grad():
                    init(bag.weight)
        return self

    @property
    def features(self) -> list[str]:
        """The features in the order of a batch and of the concatenated output."""
        return list(self._features)

    def forward(
        self,
        input: Any,
        offsets: Tensor | None = None,
        per_sample_weights: Any = None,
        output: str | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Looks up one batch of all features.

        Args:
            input: One of

                - a dict from feature to its lookups as ``nn.EmbeddingBag`` takes them: ``(B, L)``,
                  a nested tensor, or a tuple of ``(N,)`` and the ``(B,)`` offsets;
                - all lookups, those of the first feature first, with ``offsets``;
                - a ``KeyedJaggedTensor`` of TorchRec, or an object like it; keys that are no
                  feature here are left out.
            offsets: ``(F * B + 1,)`` for F features of B bags: bag b of feature f is the lookups
                from ``offsets[f * B + b]`` to ``offsets[f * B + b + 1]``.
            per_sample_weights: One factor for each lookup, in the form of ``input``: a dict (whose
                missing features have ones) or ``(N,)``.
            output: Instead of the collection's own.

        Returns:
            ``(B, sum of the widths)``, or ``(B, embedding_dim)`` for each feature.

        Raises:
            ValueError: A shape, a feature or the offsets do not fit.
            RuntimeError: A dtype does not fit, or an index or offset is out of range.
        """
        output = _checked_output(self.output if output is None else output)
        batch = self._batch(input, offsets, per_sample_weights)
        bags = self._bags
        weights = [_weight_of(bag) for bag in bags]
        rows = embedding_bag_tables(
            batch.indices,
            weights,
            batch.offsets,
            feature_tables=self._feature_tables,
            mode=[bag.mode for bag in bags],
            sparse=[bag.sparse for bag in bags],
            per_sample_weights=batch.per_sample_weights,
            padding_idx=[bag.padding_idx for bag in bags],
            max_norm=self._max_norms(),
            norm_type=[bag.norm_type for bag in bags],
        )
        if output == "concatenated":
            return rows
        widths = [weights[table].size(1) for table in self._feature_tables]
        return dict(zip(self._features, torch.split(rows, widths, 1), strict=True))

    def extra_repr(self) -> str:
        """The features, which the tables do not show."""
        return f"features={self._features}, output={self.output!r}"

    def _batch(self, input: Any, offsets: Tensor | None, per_sample_weights: Any) -> Batch:
        if isinstance(input, Tensor):
            if offsets is None:
                raise ValueError("a batch of all features in one tensor needs offsets")
            return Batch(input, offsets, per_sample_weights)
        if offsets is not None:
            raise ValueError("offsets are for a batch of all features in one tensor")
        if isinstance(input, Mapping):
            bags = self._bags
            last = [bags[table].include_last_offset for table in self._feature_tables]
            return join_features(self._features, input, per_sample_weights, last)
        if per_sample_weights is not None:
            raise ValueError("a keyed jagged tensor brings its weights along")
        return take_features(self._features, input)

    def _max_norms(self) -> list[float | None] | None:
        norms = [bag.max_norm for bag in self._bags]
        return None if all(norm is None for norm in norms) else norms

    @property
    def _bags(self) -> list[Any]:
        return list(self.tables._modules.values())

    def _set_tables(
        self,
        names: list[str],
        bags: Sequence[torch.nn.Module],
        features: list[list[str]],
        output: str,
    ) -> None:
        self.output = _checked_output(output)
        if len(set(names)) != len(names):
            raise ValueError(f"every table needs a name of its own, but got {names}")
        for name, bag in zip(names, bags, strict=True):
            _check_bag(name, bag)
        self.tables = torch.nn.ModuleDict(dict(zip(names, bags, strict=True)))
        self._features = [feature for of_table in features for feature in of_table]
        self._feature_tables = [t for t, of_table in enumerate(features) for _ in of_table]
        if len(set(self._features)) != len(self._features):
            raise ValueError(f"a feature reads one table, but got {self._features}")


def _checked_output(output: str) -> str:
    if output not in _OUTPUTS:
        raise ValueError(f"output has to be one of {', '.join(_OUTPUTS)}, but got {output}")
    return output


def _check_bag(name: str, bag: torch.nn.Module) -> None:
    """Refuses what a call of many tables would not do as the module does it."""
    if not isinstance(bag, torch.nn.EmbeddingBag):
        raise ValueError(f"table {name} has to be an nn.EmbeddingBag, but is {type(bag).__name__}")
    if bag.scale_grad_by_freq:
        raise ValueError(
            f"table {name} has scale_grad_by_freq, which a call of many tables has not"
        )
    if type(bag).forward not in (torch.nn.EmbeddingBag.forward, EmbeddingBag.forward):
        raise ValueError(f"table {name} has a forward of its own, which would not be called")


def _weight_of(bag: Any) -> Tensor:
    # As in nn.EmbeddingBag: it is elsewhere when it is parametrized, sharded or replicated.
    weight: Tensor | None = bag._parameters.get("weight")
    return bag.weight if weight is None else weight


def _table_of_torchrec(config: Any, device: Any) -> Table:
    pooling = getattr(config.pooling, "name", config.pooling)
    if pooling not in ("SUM", "MEAN"):
        raise ValueError(f"table {config.name}: pooling has to be SUM or MEAN, but is {pooling}")
    data_type = getattr(config, "data_type", None)
    data_type = getattr(data_type, "name", data_type)
    if data_type is not None and data_type not in _TORCHREC_DTYPES:
        raise ValueError(
            f"table {config.name}: data_type has to be one of {', '.join(_TORCHREC_DTYPES)}, "
            f"but is {data_type}"
        )
    return Table(
        config.num_embeddings,
        config.embedding_dim,
        mode=pooling.lower(),
        name=config.name,
        features=list(config.feature_names),
        device=device,
        dtype=None if data_type is None else _TORCHREC_DTYPES[data_type],
    )
