"""myemb.nn.EmbeddingBagCollection: what one nn.EmbeddingBag for each table gives."""

from __future__ import annotations

import copy
import dataclasses
import enum
import io
from typing import Any

import pytest
import torch
from torch import Tensor

import myemb
from myemb.nn import EmbeddingBagCollection, Table

pytestmark = pytest.mark.devices("cpu", "cudasim", why="the modules are made on the CPU")

TABLES = [
    Table(9, 3, name="films", features=["liked", "seen"], padding_idx=0),
    Table(6, 5, mode="sum", name="genres"),
    Table(4, 2, mode="max", features=["age"]),
]
FEATURES = ["liked", "seen", "genres", "age"]
ROWS = {"liked": 9, "seen": 9, "genres": 6, "age": 4}
TABLE_OF = {"liked": "films", "seen": "films", "genres": "genres", "age": "table_2"}
BAGS = 4


def batch_of_matrices() -> dict[str, Tensor]:
    lengths = {"liked": 3, "seen": 0, "genres": 2, "age": 1}
    return {name: torch.randint(rows, (BAGS, lengths[name])) for name, rows in ROWS.items()}


def batch_of_pairs() -> dict[str, tuple[Tensor, Tensor]]:
    batch = {}
    for name, rows in ROWS.items():
        starts = torch.cat([torch.zeros(1, dtype=torch.long), torch.randint(7, (BAGS - 1,))])
        batch[name] = (torch.randint(rows, (7,)), starts.sort().values)
    return batch


def mixed_batch() -> dict[str, Any]:
    batch: dict[str, Any] = dict(batch_of_pairs())
    batch["genres"] = torch.nested.nested_tensor(
        [torch.tensor(rows) for rows in ([1, 2], [0], [5, 5, 1], [3])], layout=torch.jagged
    )
    batch["age"] = torch.randint(4, (BAGS, 2))
    return batch


BATCHES = {"matrices": batch_of_matrices, "pairs": batch_of_pairs, "mixed": mixed_batch}


def apart(collection: EmbeddingBagCollection, batch: dict[str, Any]) -> dict[str, Tensor]:
    """One call of the table's own module for each feature."""
    found = {}
    for name in FEATURES:
        arguments = batch[name] if isinstance(batch[name], tuple) else (batch[name],)
        found[name] = collection.tables[TABLE_OF[name]](*arguments)
    return found


@pytest.mark.parametrize("form", BATCHES)
def test_a_dict_of_features(form: str, device: str) -> None:
    collection, batch = EmbeddingBagCollection(TABLES), BATCHES[form]()
    expected = apart(collection, batch)
    out = collection(batch)
    assert isinstance(out, Tensor)
    assert torch.equal(out, torch.cat(list(expected.values()), 1))
    by_feature = collection(batch, output="by_feature")
    assert list(by_feature) == FEATURES
    for name in FEATURES:
        assert torch.equal(by_feature[name], expected[name])
    assert list(EmbeddingBagCollection(TABLES, output="by_feature")(batch)) == FEATURES


def joined(batch: dict[str, tuple[Tensor, Tensor]], order: list[str]) -> tuple[Tensor, Tensor]:
    values = torch.cat([batch[name][0] for name in order])
    starts = [batch[name][1] + 7 * place for place, name in enumerate(order)]
    return values, torch.cat([*starts, torch.tensor([values.numel()])])


def test_one_batch_of_all_features(device: str) -> None:
    collection, batch = EmbeddingBagCollection(TABLES), batch_of_pairs()
    assert torch.equal(collection(*joined(batch, FEATURES)), collection(batch))


@dataclasses.dataclass
class Keyed:
    """Like TorchRec's KeyedJaggedTensor, which has lengths() and offsets()."""

    names: list[str]
    lookups: Tensor
    starts: Tensor
    factors: Tensor | None = None

    def keys(self) -> list[str]:
        return self.names

    def values(self) -> Tensor:
        return self.lookups

    def offsets(self) -> Tensor:
        return self.starts

    def weights_or_none(self) -> Tensor | None:
        return self.factors


class KeyedByLengths(Keyed):
    offsets: Any = property()  # hasattr says no

    def lengths(self) -> Tensor:
        return self.starts.diff()


@pytest.mark.parametrize("kind", [Keyed, KeyedByLengths])
@pytest.mark.parametrize("order", [FEATURES, ["age", "other", "seen", "genres", "liked"]])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_keyed_jagged_tensor(
    kind: type[Keyed], order: list[str], weighted: bool, device: str
) -> None:
    collection, batch = EmbeddingBagCollection(TABLES), batch_of_pairs()
    batch["other"] = batch["age"]
    factors = {name: torch.randn(7) for name in order} if weighted else None
    weights = None if factors is None else torch.cat([factors[name] for name in order])
    out = collection(kind(order, *joined(batch, order), weights))
    of_features = None if factors is None else {name: factors[name] for name in FEATURES}
    expected = collection({name: batch[name] for name in FEATURES}, per_sample_weights=of_features)
    assert torch.equal(out, expected)


def test_no_bags_of_a_keyed_jagged_tensor() -> None:
    none = torch.zeros(0, dtype=torch.long)
    for order in (FEATURES, FEATURES[::-1]):
        out = EmbeddingBagCollection(TABLES)(Keyed(order, none, torch.zeros(1, dtype=torch.long)))
        assert out.shape == (0, 13)


def test_weights_of_some_features(device: str) -> None:
    collection, batch = EmbeddingBagCollection(TABLES), batch_of_pairs()
    weights = {"genres": torch.randn(7)}
    found = collection(batch, per_sample_weights=weights, output="by_feature")
    for name, rows in apart(collection, batch).items():
        if name != "genres":
            assert torch.equal(found[name], rows)
    expected = collection.tables["genres"](*batch["genres"], per_sample_weights=weights["genres"])
    assert torch.equal(found["genres"], expected)


def test_gradients_and_optimizers(device: str) -> None:
    collection, batch = EmbeddingBagCollection(TABLES), batch_of_pairs()
    collection.tables["genres"].sparse = True
    other = copy.deepcopy(collection)
    out = collection(batch)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    torch.cat(list(apart(other, batch).values()), 1).backward(upstream)
    assert collection.tables["genres"].weight.grad.is_sparse
    for ours, theirs in zip(collection.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.to_dense(), theirs.grad.to_dense())
    before = collection.tables["films"].weight.detach().clone()
    torch.optim.SGD(collection.tables["films"].parameters(), lr=0.1).step()
    assert not torch.equal(collection.tables["films"].weight, before)


def test_names_state_and_pickles() -> None:
    collection = EmbeddingBagCollection(TABLES)
    names = [f"tables.{name}.weight" for name in ("films", "genres", "table_2")]
    assert [name for name, _ in collection.named_parameters()] == names
    assert list(collection.state_dict()) == names
    assert collection.features == FEATURES
    assert "liked" in repr(collection)
    assert isinstance(collection.tables["films"], torch.nn.EmbeddingBag)
    other = EmbeddingBagCollection(TABLES)
    other.load_state_dict(collection.state_dict())
    file = io.BytesIO()
    torch.save(other, file)
    file.seek(0)
    loaded, batch = torch.load(file, weights_only=False), batch_of_pairs()
    assert torch.equal(loaded(batch), collection(batch))


@pytest.mark.parametrize("named", [False, True])
def test_from_embedding_bags_shares_them(named: bool) -> None:
    bags = [
        torch.nn.EmbeddingBag(9, 3, mode="sum", include_last_offset=True),
        myemb.nn.EmbeddingBag(6, 5, max_norm=0.5, sparse=True),
    ]
    given: Any = torch.nn.ModuleDict({"a": bags[0], "b": bags[1]}) if named else bags
    features = {"b": ["x", "y"]} if named else {"table_1": ["x", "y"]}
    collection = EmbeddingBagCollection.from_embedding_bags(given, features)
    assert next(iter(collection.parameters())) is bags[0].weight
    assert collection.features == ["a" if named else "table_0", "x", "y"]
    first = torch.tensor([0, 2, 4])
    batch = {
        collection.features[0]: (torch.tensor([1, 2, 3, 4]), first),
        "x": (torch.tensor([1, 2, 3, 4]), first[:2]),
        "y": torch.tensor([[5], [1]]),
    }
    copies = copy.deepcopy(bags)
    expected = [copies[0](*batch[collection.features[0]]), copies[1](*batch["x"])]
    expected.append(copies[1](batch["y"]))
    torch.testing.assert_close(collection(batch), torch.cat(expected, 1))
    assert torch.equal(bags[1].weight, copies[1].weight)  # renormed alike


class Pooling(enum.Enum):
    SUM = "SUM"
    MEAN = "MEAN"
    LAST = "LAST"


class DataType(enum.Enum):
    FP16 = "FP16"
    INT8 = "INT8"


@dataclasses.dataclass
class EmbeddingBagConfig:
    num_embeddings: int
    embedding_dim: int
    name: str
    feature_names: list[str]
    pooling: Pooling = Pooling.SUM
    data_type: DataType = DataType.FP16
    init_fn: Any = None


def test_from_torchrec() -> None:
    configs = [
        EmbeddingBagConfig(9, 3, "t", ["x", "y"], init_fn=torch.nn.init.ones_),
        EmbeddingBagConfig(6, 5, "u", ["z"], Pooling.MEAN),
    ]
    collection = EmbeddingBagCollection.from_torchrec(configs)
    assert collection.features == ["x", "y", "z"]
    assert [bag.mode for bag in collection.tables.values()] == ["sum", "mean"]
    assert collection.tables["t"].weight.dtype == torch.float16
    assert collection.tables["t"].weight.eq(1).all()
    for change in ({"pooling": Pooling.LAST}, {"data_type": DataType.INT8}):
        with pytest.raises(ValueError, match=r"table u: .* but is (LAST|INT8)"):
            bad = dataclasses.replace(configs[1], **change)
            EmbeddingBagCollection.from_torchrec([configs[0], bad])


class OwnForward(torch.nn.EmbeddingBag):
    def forward(self, *arguments: Any) -> Any:
        return super().forward(*arguments)


def test_what_is_refused_when_it_is_made() -> None:
    make = EmbeddingBagCollection.from_embedding_bags
    for bag, message in (
        (torch.nn.EmbeddingBag(3, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (OwnForward(3, 2), "forward of its own"),
        (torch.nn.Linear(3, 2), "has to be an nn.EmbeddingBag, but is Linear"),
    ):
        with pytest.raises(ValueError, match=message):
            make([bag])
    with pytest.raises(ValueError, match="tables that there are not"):
        make([torch.nn.EmbeddingBag(3, 2)], {"films": ["x"]})
    with pytest.raises(ValueError, match="a name of its own"):
        EmbeddingBagCollection([Table(3, 2, name="t"), Table(3, 2, name="t")])
    with pytest.raises(ValueError, match="a feature reads one table"):
        EmbeddingBagCollection([Table(3, 2, features=["x"]), Table(3, 2, features=["x"])])
    with pytest.raises(ValueError, match="output has to be one of"):
        EmbeddingBagCollection(TABLES, output="sum")


def test_batches_that_do_not_fit() -> None:
    collection, batch = EmbeddingBagCollection(TABLES), batch_of_pairs()
    values, starts = batch["age"]
    for changes, error, message in (
        ({"age": (values, starts[:2])}, ValueError, "same number of bags"),
        ({"age": values}, ValueError, "feature age: lookups without offsets"),
        ({"other": values}, ValueError, "there are no features other"),
        ({"age": (values, starts + 1)}, RuntimeError, r"offsets\[0\] has to be 0"),
        (
            {"liked": (values, starts.clone().fill_(0) + torch.tensor([0, 0, 0, 8]))},
            RuntimeError,
            "offsets",
        ),
        ({"liked": (values + 9, starts)}, RuntimeError, "table 0, which feature 0 reads"),
    ):
        with pytest.raises(error, match=message):
            collection(batch | changes)
    with pytest.raises(ValueError, match="the batch has no lookups of seen"):
        collection({name: batch[name] for name in FEATURES if name != "seen"})
    with pytest.raises(ValueError, match="needs offsets"):
        collection(values)
    with pytest.raises(ValueError, match="offsets are for a batch"):
        collection(batch, starts)
    with pytest.raises(TypeError, match="KeyedJaggedTensor, but got int"):
        collection(3)
    with pytest.raises(ValueError, match="feature age: per_sample_weights"):
        collection(batch, per_sample_weights={"age": torch.ones(3)})
    with pytest.raises(ValueError, match="there are no features other"):
        collection(batch, per_sample_weights={"other": torch.ones(3)})


def test_parametrized_tables() -> None:
    collection, batch = EmbeddingBagCollection(TABLES), batch_of_pairs()
    expected = collection(batch)
    torch.nn.utils.parametrizations.weight_norm(collection.tables["films"])
    torch.testing.assert_close(collection(batch), expected)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("form", ["matrices", "pairs"])
def test_compile(form: str) -> None:
    collection, batch = EmbeddingBagCollection(TABLES), BATCHES[form]()
    compiled = torch.compile(collection, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(batch), collection(batch))
    compiled(batch).sum().backward()
