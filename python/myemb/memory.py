"""Memory of large tensors on the CPU: blocks that are kept for the next result, and huge pages.

A result of 2 MiB or more is allocated in huge pages (2 MiB), and its memory is kept when the
tensor is freed: a page fault for each 4 KiB of a fresh block would cost ten times what writing the
result does. What is kept is bounded, and the system may take back what lies idle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _C

__all__ = ["cache_limit", "cached_bytes", "empty_cache", "huge_pages_", "set_cache_limit"]


def empty_cache() -> None:
    """Gives all memory that is kept, and not part of a tensor, back to the system."""
    _C.empty_cache()


def set_cache_limit(limit: int) -> None:
    """Keeps at most so many bytes from now on.

    At first this is ``MYEMB_CACHE_LIMIT`` of the environment, or a sixteenth of the machine's
    memory and at most 4 GiB.

    Args:
        limit: Bytes. 0 turns the cache off: results are then allocated as PyTorch allocates them.

    Raises:
        RuntimeError: ``limit`` is negative.
    """
    _C.set_cache_limit(limit)


def cache_limit() -> int:
    """Returns how many bytes are kept at most."""
    return _C.cache_limit()


def cached_bytes() -> int:
    """Returns how many bytes are kept, and not part of a tensor."""
    return _C.cached_bytes()


def huge_pages_(target: Tensor | torch.nn.Module) -> int:
    """Moves the memory of a table to huge pages (2 MiB), once and in place.

    Addresses, values and everything that refers to them stay. Rows at random places of a table of
    hundreds of megabytes are then found with fewer misses of the TLB. It takes a second or so for
    each GiB, and as much free memory in huge pages.

    Args:
        target: A dense CPU tensor, or a module, all of whose parameters and buffers are moved.

    Returns:
        How many bytes were moved. The first and last part of a page of each tensor are not, so that
        it is 0 for tensors under 2 MiB.

    Raises:
        RuntimeError: A tensor is not on the CPU or not dense, or the system cannot do it: it needs
            Linux 6.1 with transparent huge pages, and memory that is not a mapped file.
    """
    if isinstance(target, Tensor):
        return _C.huge_pages_(target.detach())
    storages = {
        tensor.untyped_storage().data_ptr(): tensor
        for tensor in (*target.parameters(), *target.buffers())
    }
    return sum(_C.huge_pages_(tensor.detach()) for tensor in storages.values())
