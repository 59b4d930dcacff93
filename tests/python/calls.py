"""Random calls of embedding and embedding_bag, right ones and wrong ones, for hypothesis."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from hypothesis import strategies as st
from inputs import FLOAT_DTYPES, INDEX_DTYPES

SIXTEEN_BIT = (torch.float16, torch.bfloat16)


@dataclasses.dataclass
class Call:
    """The arguments of one call, as plain data that hypothesis can shrink and print."""

    bag: bool
    lookups: list[int]
    shape: tuple[int, ...]
    index_dtype: torch.dtype = torch.int64
    rows: int = 5
    width: int = 3
    dtype: torch.dtype = torch.float32
    weight_dims: int = 2
    offsets: list[int] | None = None
    offset_dtype: torch.dtype = torch.int64
    mode: str = "sum"
    weights: torch.dtype | None = None
    weights_size: int | None = None
    include_last_offset: bool = False
    padding_idx: int | None = None
    scale_grad_by_freq: bool = False
    sparse: bool = False
    max_norm: float | None = None
    norm_type: float = 2.0
    faults: int = 1

    def tensors(self) -> dict[str, Any]:
        """Fresh tensors: whole numbers that 16 bits hold, distinct enough to have few ties."""
        shape = (
            (self.rows, self.width) if self.weight_dims == 2 else (self.rows,) * self.weight_dims
        )
        count = torch.Size(shape).numel()
        weight = ((torch.arange(count) * 37) % 101 - 50).view(shape).to(self.dtype)
        made = {
            "input": torch.tensor(self.lookups, dtype=torch.int64)
            .to(self.index_dtype)
            .reshape(self.shape),
            "weight": weight,
            "padding_idx": self.padding_idx,
            "max_norm": self.max_norm,
            "norm_type": self.norm_type,
            "scale_grad_by_freq": self.scale_grad_by_freq,
            "sparse": self.sparse,
        }
        if self.bag:
            size = len(self.lookups) if self.weights_size is None else self.weights_size
            factors = ((torch.arange(size) * 5) % 7 - 3).to(self.weights or torch.float32)
            made |= {
                "offsets": None
                if self.offsets is None
                else torch.tensor(self.offsets, dtype=torch.int64).to(self.offset_dtype),
                "mode": self.mode,
                "per_sample_weights": None
                if self.weights is None
                else factors.reshape(self.shape if self.weights_size is None else (size,)),
                "include_last_offset": self.include_last_offset,
            }
        return made


def bad_offsets(call: Call) -> bool:
    """PyTorch checks the first, and that the last is not past the end."""
    if not call.bag or call.offsets is None or len(call.shape) != 1:
        return False
    starts, size = call.offsets, len(call.lookups)
    if not starts:
        return size > 0 or call.include_last_offset
    ends_early = call.include_last_offset and starts[-1] != size
    return starts[0] != 0 or starts[-1] > size or sorted(starts) != starts or ends_early


def bad_index(call: Call) -> bool:
    return any(not 0 <= index < call.rows for index in call.lookups)


def float32_weights(call: Call) -> bool:
    return call.weights == torch.float32 and call.dtype in SIXTEEN_BIT


@st.composite
def calls(draw: st.DrawFn, bag: bool) -> Call:
    rows, width = draw(st.integers(1, 9)), draw(st.sampled_from((0, 1, 3, 7, 17, 33)))
    dims = draw(st.sampled_from((1, 2)) if bag else st.sampled_from((0, 1, 2, 3)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=dims, max_size=dims)))
    if bag and dims == 1:
        shape = (draw(st.integers(0, 12)),)
    size = torch.Size(shape).numel()
    lookups = draw(st.lists(st.integers(0, rows - 1), min_size=size, max_size=size))
    dtype = draw(st.sampled_from(FLOAT_DTYPES))
    call = Call(bag, lookups, shape, rows=rows, width=width, dtype=dtype)
    call.index_dtype = draw(st.sampled_from(INDEX_DTYPES))
    call.padding_idx = draw(st.none() | st.integers(-rows, rows - 1))
    call.scale_grad_by_freq = draw(st.booleans())
    call.sparse = draw(st.booleans())
    call.max_norm = draw(st.sampled_from((None, None, 60.0)))
    call.norm_type = draw(st.sampled_from((1.0, 2.0, float("inf"))))
    if bag:
        draw_bags(draw, call, size)
    spoil(draw, call)
    return call


def draw_bags(draw: st.DrawFn, call: Call, size: int) -> None:
    call.mode = draw(st.sampled_from(("sum", "mean", "max")))
    if call.mode == "max":
        call.scale_grad_by_freq = call.sparse = False
    call.weights = draw(st.sampled_from((None, call.dtype)))
    if call.weights is not None and call.dtype in SIXTEEN_BIT and draw(st.booleans()):
        call.weights = torch.float32
    call.include_last_offset = draw(st.booleans())
    call.offset_dtype = draw(st.sampled_from(INDEX_DTYPES))
    if len(call.shape) == 1:
        ends = draw(st.lists(st.integers(0, size), max_size=5))
        call.offsets = [0, *sorted(ends)]
        if call.include_last_offset:
            call.offsets.append(size)


def bad_lookup(draw: st.DrawFn, call: Call) -> None:
    if call.lookups:
        position = draw(st.integers(0, len(call.lookups) - 1))
        bad = draw(st.sampled_from((-1, call.rows, call.rows + 90)))
        call.lookups[position] = call.rows if call.index_dtype == torch.uint8 else bad


def bad_index_dtype(draw: st.DrawFn, call: Call) -> None:
    call.index_dtype = draw(st.sampled_from((torch.float32, torch.bool, torch.int8)))


def bad_dtype(draw: st.DrawFn, call: Call) -> None:
    call.dtype = draw(st.sampled_from((torch.int64, torch.complex64, torch.bool)))
    call.weights = None


def bad_weight_dims(draw: st.DrawFn, call: Call) -> None:
    call.weight_dims = draw(st.sampled_from((1, 3)))


def bad_padding_idx(draw: st.DrawFn, call: Call) -> None:
    call.padding_idx = draw(st.sampled_from((call.rows, -call.rows - 1, 100)))


def other_offsets(draw: st.DrawFn, call: Call) -> None:
    call.offsets = draw(st.none() | st.lists(st.integers(-1, 14), max_size=5))


def other_mode(draw: st.DrawFn, call: Call) -> None:
    call.mode = draw(st.sampled_from(("min", "max")))


def bad_weights_dtype(draw: st.DrawFn, call: Call) -> None:
    call.weights = draw(st.sampled_from((torch.float64, torch.int64)))


def bad_weights_size(draw: st.DrawFn, call: Call) -> None:
    call.weights = call.dtype
    call.weights_size = draw(st.integers(0, 6))


def bad_offset_dtype(draw: st.DrawFn, call: Call) -> None:
    call.offset_dtype = torch.float32


def bad_dims(draw: st.DrawFn, call: Call) -> None:
    if len(call.shape) == 2:
        call.shape = (*call.shape, 1)


FAULTS = (bad_lookup, bad_index_dtype, bad_dtype, bad_weight_dims, bad_padding_idx)
BAG_FAULTS = (
    *FAULTS,
    other_offsets,
    other_mode,
    bad_weights_dtype,
    bad_weights_size,
    bad_offset_dtype,
    bad_dims,
)


def spoil(draw: st.DrawFn, call: Call) -> None:
    """Makes half of the calls wrong, some of them in two ways."""
    if draw(st.booleans()):
        return
    faults = st.sampled_from(BAG_FAULTS if call.bag else FAULTS)
    chosen = draw(st.lists(faults, min_size=1, max_size=2, unique=True))
    for fault in chosen:
        fault(draw, call)
    call.faults = len(chosen)
