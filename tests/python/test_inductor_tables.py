"""embedding_bag_tables in a graph with what needs the lookups of single features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tables import make_call
from torch import Tensor
from torch._dynamo.utils import counters

from myemb.functional import embedding_bag_tables
from myemb.nn import EmbeddingBagCollection, Table

pytestmark = pytest.mark.usefixtures("no_graph_caches")
FEATURES = [0, 2, 1, 0, 3, 1]  # two sparse tables and two dense ones, of each kind one twice
SPARSE = [True, False, False, True]
WIDTHS = (1, 3, 7, 33)


def compiled(
    function: Callable[..., Any], backend: str = "aot_eager", **options: Any
) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend=backend, **options)


def same(ours: Tensor, plain: Tensor) -> None:
    """Bit for bit, and entry by entry of a sparse gradient."""
    assert ours.layout == plain.layout and ours.dtype == plain.dtype
    if plain.is_sparse:
        assert torch.equal(ours._indices(), plain._indices())
        ours, plain = ours._values(), plain._values()
    assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    "factors, dtypes, index_dtype",
    [
        (None, (torch.float32,), torch.int64),
        (torch.float32, (torch.float32, torch.bfloat16), torch.int32),
    ],
)
def test_sparse_gradients(
    factors: torch.dtype | None, dtypes: tuple[torch.dtype, ...], index_dtype: torch.dtype
) -> None:
    def together(
        lookups: Tensor, weights: list[Tensor], starts: Tensor, factors: Tensor | None
    ) -> Tensor:
        options: dict[str, Any] = {"feature_tables": FEATURES, "padding_idx": padding}
        options |= {"mode": ["sum", "mean", "max", "mean"], "sparse": SPARSE}
        return embedding_bag_tables(lookups, weights, starts, per_sample_weights=factors, **options)

    graph = compiled(together)
    padding = [None, 1, 2, 3]
    for num_bags in (5, 9, 2, 30):
        call = make_call(
            WIDTHS, num_bags=num_bags, dtypes=dtypes, features=FEATURES, factors=factors,
            index_dtype=index_dtype,
        )  # fmt: skip
        results = []
        for function in (graph, together):
            weights = [weight.detach().requires_grad_() for weight in call.weights]
            own = None if call.factors is None else call.factors.detach().requires_grad_()
            leaves = weights if own is None else [*weights, own]
            output = function(call.lookups, weights, call.starts, own)
            torch.manual_seed(num_bags)
            upstream = torch.randn(output.shape).to(output.dtype)
            results.append([output, *torch.autograd.grad(output, leaves, upstream)])
        for ours, plain in zip(*results, strict=True):
            same(ours, plain)
        assert [gradient.is_sparse for gradient in results[0][1:5]] == SPARSE
    assert counters["stats"]["unique_graphs"] <= 2


def collection() -> EmbeddingBagCollection:
    torch.manual_seed(4)
    tables = [Table(50, 8, "sum", "a", ["x", "y"], padding_idx=0, max_norm=1.0, sparse=True)]
    tables += [Table(20, 4, "max", "b", max_norm=1.0), Table(30, 6, name="c", sparse=True)]
    return EmbeddingBagCollection([*tables, Table(30, 6, name="d", max_norm=0.5, norm_type=1.0)])


@pytest.mark.parametrize("backend, compilations", [("aot_eager", 2), ("inductor", 1)])
def test_a_collection_with_max_norm_and_sparse_gradients(backend: str, compilations: int) -> None:
    """Few compilations, the bits of the plain collection, and what torch.nn does table by table."""
    model, plain, modules = collection(), collection(), collection().tables
    for name, module in modules.items():
        module.__class__, table = torch.nn.EmbeddingBag, name  # torch's own forward
    graph = compiled(model, backend, dynamic=True if compilations == 1 else None)
    tables = {"x": "a", "y": "a", "b": "b", "c": "c", "d": "d"}
    for bags, lookups in ((3, 14), (5, 31), (9, 8), (2, 60)):
        batch = {}
        for number, (feature, table) in enumerate(tables.items()):
            indices = torch.randint(modules[table].num_embeddings, (lookups + number,))
            starts = torch.randint(lookups, (bags - 1,)).sort().values
            batch[feature] = indices, torch.cat([torch.zeros(1, dtype=torch.int64), starts])
        output, expected = graph(batch), plain(batch)
        apart = torch.cat([modules[tables[feature]](*batch[feature]) for feature in tables], 1)
        same(output, expected)
        torch.testing.assert_close(output, apart)
        upstream = torch.randn_like(output)
        for each in (output, expected, apart):
            each.backward(upstream)
        for name, module in modules.items():
            ours, eager = model.tables[name].weight, plain.tables[name].weight
            same(ours, eager)
            torch.testing.assert_close(ours, module.weight)
            assert ours.grad is not None and eager.grad is not None
            same(ours.grad, eager.grad)
            torch.testing.assert_close(ours.grad.to_dense(), module.weight.grad.to_dense())
            ours.grad = eager.grad = module.weight.grad = None
    assert counters["stats"]["unique_graphs"] == compilations and not counters["graph_break"]


def test_bad_arguments_are_refused_in_a_graph() -> None:
    weights = [torch.randn(5, 2, requires_grad=True), torch.randn(4, 3, requires_grad=True)]
    graph = compiled(lambda i, o: embedding_bag_tables(i, weights, o, sparse=[True, False]))
    lookups, starts = torch.tensor([0, 4, 3, 2]), torch.tensor([0, 1, 2, 3, 4])
    assert graph(lookups, starts).shape == (2, 5)
    with pytest.raises(RuntimeError, match="range"):
        graph(torch.tensor([0, 5, 3, 2]), starts)
    with pytest.raises(RuntimeError, match="range"):
        graph(torch.tensor([0, 4, 3, -1]), starts)
    for bad in ([0, 2, 1, 3, 4], [0, 1, 2, 3, 3], [1, 1, 2, 3, 4], [0, 1, 2, 3, 5]):
        with pytest.raises(RuntimeError):
            graph(lookups, torch.tensor(bad))
    with pytest.raises(Exception, match="has to have 2 \\* B \\+ 1 elements"):
        graph(lookups, starts[:-1])
    with pytest.raises(Exception, match="max mode does not support sparse"):
        compiled(lambda i, o: embedding_bag_tables(i, weights, o, mode="max", sparse=True))(
            lookups, starts
        )


def test_a_batch_without_bags() -> None:
    weights = [torch.randn(5, 2, requires_grad=True), torch.randn(4, 3, requires_grad=True)]
    graph = compiled(lambda i, o: embedding_bag_tables(i, weights, o, sparse=True, max_norm=1.0))
    output = graph(torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert output.shape == (0, 5)
    first, second = torch.autograd.grad(output, weights, torch.empty(0, 5))
    assert first._nnz() == second._nnz() == 0
