"""per_sample_weights, frequencies and sparse gradients of myemb.functional.embedding_bag."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from bags import check, in_float64, reference_bag, run
from inputs import FLOAT_DTYPES, MODES, assert_near, indices, offsets, whole_numbers

from myemb.functional import embedding_bag


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("two_dimensional", [False, True])
def test_per_sample_weights_in_every_mode(
    mode: str, dtype: torch.dtype, padding_idx: int | None, two_dimensional: bool, device: str
) -> None:
    lookups = indices("zipf", 60, 15, device=device)
    factors = torch.randn(60, device=device).to(dtype)
    starts = offsets(60, 10, device=device)
    if two_dimensional:
        lookups, factors, starts = lookups.view(10, 6), factors.view(10, 6), None
    weight = torch.randn(15, 9, device=device).to(dtype)
    upstream = torch.randn(10, 9, device=device).to(dtype)
    arguments = (lookups, weight, starts, upstream, factors)
    if mode == "max" and dtype in (torch.float16, torch.bfloat16):
        factors.copy_(factors.sign())  # exact products, so that float64 picks the same maximum
    check(*arguments, mode=mode, padding_idx=padding_idx, against=reference_bag, terms=60)
    if mode == "sum":
        check(*arguments, mode=mode, padding_idx=padding_idx, terms=60)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_weights_of_a_16_bit_table(mode: str, dtype: torch.dtype, device: str) -> None:
    lookups = indices("uniform", 30, 15, device=device)
    weight = torch.randn(15, 8, device=device).to(dtype)
    factors = torch.rand(30, device=device) + 2**-20  # more digits than the table has
    upstream = torch.randn(6, 8, device=device).to(dtype)
    starts = offsets(30, 6, device=device)
    arguments = (lookups, weight, starts, upstream, factors)
    output, table_gradient, factor_gradient = run(embedding_bag, *arguments, mode=mode)
    assert (output.dtype, table_gradient.dtype) == (dtype, dtype)
    assert factor_gradient.dtype == torch.float32
    expected = in_float64(reference_bag, *arguments, mode=mode)
    for ours, theirs in zip((output, table_gradient, factor_gradient), expected, strict=True):
        assert_near(ours, theirs, terms=30)


def test_weights_alone_can_require_grad(device: str) -> None:
    weight = whole_numbers(5, 3, device=device)
    factors = torch.ones(4, device=device, requires_grad=True)
    lookups = torch.tensor([4, 0, 2, 2], device=device)
    upstream = whole_numbers(2, 3, device=device)
    output = embedding_bag(
        lookups,
        weight,
        torch.tensor([0, 3], device=device),
        mode="sum",
        per_sample_weights=factors,
        padding_idx=0,
    )
    output.backward(upstream)
    expected = (weight[lookups] * upstream[[0, 0, 0, 1]]).sum(1)
    expected[1] = 0  # padding
    assert factors.grad is not None
    assert torch.equal(factors.grad, expected)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 1])
def test_frequency_scaling(
    mode: str, sparse: bool, weighted: bool, padding_idx: int | None, device: str
) -> None:
    lookups = indices("zipf", 60, 15, device=device)
    weight, upstream = torch.randn(15, 7, device=device), torch.randn(8, 7, device=device)
    factors = torch.randn(60, device=device) if weighted else None
    arguments = (lookups, weight, offsets(60, 8, device=device), upstream, factors)
    options = {"mode": mode, "padding_idx": padding_idx, "scale_grad_by_freq": True}
    actual = run(embedding_bag, *arguments, sparse=sparse, **options)
    assert actual[1].is_sparse == sparse
    expected = in_float64(reference_bag, *arguments, **options)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_near(ours.to_dense() if ours.is_sparse else ours, theirs, terms=60)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_sparse_gradient_lists_the_lookups_in_order(
    mode: str, weighted: bool, dtype: torch.dtype, device: str
) -> None:
    lookups = indices("zipf", 30, 15, device=device)
    weight = torch.randn(15, 7, device=device).to(dtype)
    factors = torch.randn(30, device=device).to(dtype) if weighted else None
    starts = torch.tensor([0, 10, 10, 12], device=device)
    upstream = torch.randn(4, 7, device=device).to(dtype)
    arguments = (lookups, weight, starts, upstream, factors)
    actual = run(embedding_bag, *arguments, mode=mode, sparse=True)[1]
    assert actual.layout == torch.sparse_coo
    assert (actual.sparse_dim(), actual.dense_dim(), actual.is_coalesced()) == (1, 1, False)
    assert torch.equal(actual._indices(), lookups.view(1, -1))
    lengths = torch.tensor([10, 0, 2, 18], device=device)
    expected = upstream.double().repeat_interleave(lengths, dim=0)
    if mode == "mean":
        expected /= lengths.repeat_interleave(lengths).unsqueeze(1)
    if factors is not None:
        expected *= factors.double().unsqueeze(1)
    assert actual._values().dtype == dtype
    assert_near(actual._values(), expected)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_sparse_gradient_leaves_padding_out(mode: str, device: str) -> None:
    lookups = torch.tensor([5, 3, 0, 3, 5, 1], device=device)
    weight, upstream = torch.randn(6, 7, device=device), torch.randn(2, 7, device=device)
    arguments = (lookups, weight, torch.tensor([0, 4], device=device), upstream)
    actual = run(embedding_bag, *arguments, mode=mode, sparse=True, padding_idx=3)[1]
    assert actual._indices().tolist() == [[5, 0, 5, 1]]
    assert_near(
        actual.to_dense(), in_float64(F.embedding_bag, *arguments, mode=mode, padding_idx=3)[1]
    )


def test_zeros_of_a_sparse_gradient_have_no_sign(device: str) -> None:
    """An entry is a sum of one term, which starts from zero, on every device."""
    grad_output = torch.tensor([[0.0, -0.0, 2.0]], device=device)
    lookups = torch.tensor([1, 2, 0], device=device)
    weights = torch.tensor([-1.0, 1.0, -1.0], device=device)
    values = torch.ops.myemb.embedding_bag_sparse_backward(
        grad_output, lookups, torch.tensor([0], device=device), 3, False, 0, weights, False, 0
    )
    expected = torch.tensor([[0.0, 0.0, -2.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]], device=device)
    assert torch.equal(values.view(torch.int32), expected.view(torch.int32))
