# ruff: noqa: N999 - the module is named as torch names its own
"""Typed entries into the dispatcher: ``torch.ops.myemb.*`` at a fraction of its overhead.

All arguments are positional. Shapes, dtypes and errors are those of the operators; see
``myemb.functional``.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

version: str
torch_version: str

def embedding(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int,
    scale_grad_by_freq: bool,
    sparse: bool,
    /,
) -> Tensor: ...
def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int | None,
    /,
) -> Tensor: ...
def embedding_bag_tables(
    weights: Sequence[Tensor],
    indices: Tensor,
    offsets: Tensor,
    feature_tables: Sequence[int] | None,
    modes: Sequence[int] | None,
    per_sample_weights: Tensor | None,
    padding_idx: Sequence[int] | None,
    sparse_tables: Sequence[int],
    /,
) -> Tensor: ...
def check_embedding_bag_tables(
    weights: Sequence[Tensor],
    indices: Tensor,
    offsets: Tensor,
    feature_tables: Sequence[int] | None,
    modes: Sequence[int] | None,
    per_sample_weights: Tensor | None,
    padding_idx: Sequence[int] | None,
    sparse_tables: Sequence[int],
    /,
) -> None: ...
def embedding_renorm_(
    weight: Tensor, indices: Tensor, max_norm: float, norm_type: float, /
) -> Tensor: ...
def check_embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    mode: int,
    scale_grad_by_freq: bool,
    sparse: bool,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int | None,
    /,
) -> None: ...

class FusedTable:
    def remove(self) -> None: ...

def fuse_in_backward(
    table: Tensor, next_step: Callable[[bool], tuple[list[Tensor], dict[str, Any]]], /
) -> FusedTable: ...
def empty_cache() -> None: ...
def set_cache_limit(limit: int, /) -> None: ...
def cache_limit() -> int: ...
def cached_bytes() -> int: ...
def huge_pages_(tensor: Tensor, /) -> int: ...
def prefetch_rows(table: Tensor, indices: Tensor, /) -> int: ...
def flush(tensor: Tensor, /) -> None: ...
def has_cuda() -> bool: ...
def cpu_capability() -> str: ...
def count_parallel_threads() -> int: ...
