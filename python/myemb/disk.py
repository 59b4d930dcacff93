"""Tables in files: mapped without a copy, read ahead of their batch, trained in place.

A mapped tensor is a CPU tensor whose memory is a file. The system reads a page of it (4 KiB) when a
row there is looked up, keeps it as long as memory allows, and writes what was changed back. So a
table may be larger than memory, and mapping it takes no time. :func:`map_file` is for raw numbers,
:func:`map_npy` and :func:`map_safetensors` for files of those formats; :func:`prefetch_rows` and
:func:`prefetch_batches` ask for the pages of a batch ahead.

The ``mode`` of a mapping is one of numpy's:

- ``"r"``: the file is only read. What is written to the tensor stays in memory, page by page, and
  never gets to the file (as with ``torch.load(mmap=True)``).
- ``"r+"``: what is written to the tensor is written to the file.
- ``"w+"``: the same for a new file of zeros; one of that name is overwritten. The file takes space
  on the disk for rows that were written, and no others.

With ``read_ahead`` the system reads more than the page that is needed, 128 KiB or what the disk is
set to: right for a table that fits into memory and will be there soon. Turn it off for a table that
does not, whose rows are all over it.

A file must not become smaller while it is mapped, and its disk must not become full: the system
ends a process that touches a page it cannot have (SIGBUS).
"""

from __future__ import annotations

import json
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from math import prod
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from . import _C

__all__ = [
    "flush",
    "map_file",
    "map_npy",
    "map_safetensors",
    "prefetch_batches",
    "prefetch_rows",
]

Mode = Literal["r", "r+", "w+"]
PathLike = str | os.PathLike[str]
BatchT = TypeVar("BatchT")

_OPENED = {"r": "rb", "r+": "r+b", "w+": "w+b"}
_NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which mmap has from Python 3.13 on
_LENGTH_BYTES = 8  # of the header of a safetensors file

# The names of safetensors. Numbers of less than a byte have no type in PyTorch.
_SAFETENSORS_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}


def map_file(
    path: PathLike,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    mode: Mode = "r",
    offset: int = 0,
    read_ahead: bool = True,
) -> Tensor:
    """Maps a file of raw numbers, row after row, as ``numpy.memmap`` does.

    Args:
        path: Of the file.
        shape: Of the tensor, such as ``(num_embeddings, embedding_dim)``.
        dtype: Of the numbers, in the byte order of this machine.
        mode: ``"r"``, ``"r+"`` or ``"w+"``, see the module.
        offset: Where they begin in the file, in bytes: a multiple of the size of one.
        read_ahead: Whether a page that is read brings its neighbours, see the module.

    Returns:
        A contiguous tensor that is the file. It is unmapped with the last tensor that shares it.

    Raises:
        ValueError: The mode is none of these, the file is too short, or an argument is negative or
            not aligned.
        OSError: The file cannot be opened or mapped.
    """
    if mode not in _OPENED:
        raise ValueError(f"mode has to be one of {', '.join(_OPENED)} but got {mode!r}")
    mapped = _map(path, mode, _end(shape, dtype, offset), read_ahead)
    return _tensor_of(mapped, shape, dtype, offset)


def _end(shape: Sequence[int], dtype: torch.dtype, offset: int) -> int:
    """Returns where such a tensor ends in its file."""
    if offset < 0 or offset % dtype.itemsize:
        raise ValueError(f"offset {offset} is not a multiple of {dtype.itemsize}, as {dtype} needs")
    if any(size < 0 for size in shape):
        raise ValueError(f"a size of {tuple(shape)} is negative")
    return offset + prod(shape) * dtype.itemsize


def _map(path: PathLike, mode: str, size: int, read_ahead: bool) -> mmap.mmap | None:
    """Maps the first bytes of a file; there is no mapping of none."""
    with open(path, _OPENED[mode]) as file:
        if mode == "w+":
            file.truncate(size)
        found = os.fstat(file.fileno()).st_size
        if found < size:
            raise ValueError(f"{os.fspath(path)} has {found} bytes, but {size} are needed")
        if size == 0:
            return None
        # Copies of pages that are written to in mode "r" are made one by one; without NORESERVE the
        # system would refuse what would not fit if all were.
        flags = mmap.MAP_PRIVATE | _NO_RESERVE if mode == "r" else mmap.MAP_SHARED
        mapped = mmap.mmap(file.fileno(), size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    if not read_ahead:
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def _tensor_of(
    mapped: mmap.mmap | None, shape: Sequence[int], dtype: torch.dtype, offset: int
) -> Tensor:
    if mapped is None or not prod(shape):
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(mapped, dtype=dtype, count=prod(shape), offset=offset).view(
        tuple(shape)
    )


def map_npy(path: PathLike, mode: Literal["r", "r+"] = "r", read_ahead: bool = True) -> Tensor:
    """Maps the array of a ``.npy`` file, with its shape and dtype. It needs numpy.

    Args:
        path: Of the file, written by ``numpy.save`` or ``numpy.lib.format.open_memmap``.
        mode: ``"r"`` or ``"r+"``, see the module.
        read_ahead: As in :func:`map_file`.

    Returns:
        A tensor that is the array of the file; not contiguous if that is in Fortran's order.

    Raises:
        ValueError: It is no ``.npy`` file, or one of objects.
        TypeError: PyTorch has no such dtype.
        OSError: The file cannot be opened or mapped.
    """
    import numpy as np

    _check_reading(mode)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap):
        raise ValueError(f"{os.fspath(path)} is not a .npy file of one array")
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    if array.flags.c_contiguous:
        return map_file(path, array.shape, dtype, mode, array.offset, read_ahead)
    columns = map_file(path, array.shape[::-1], dtype, mode, array.offset, read_ahead)
    return columns.permute(*reversed(range(array.ndim)))


def map_safetensors(
    path: PathLike, mode: Literal["r", "r+"] = "r", read_ahead: bool = True
) -> dict[str, Tensor]:
    """Maps all tensors of a ``.safetensors`` file.

    ``safetensors.torch.load_file`` does not copy either, but has mode ``"r"`` alone. This does not
    need that package.

    Args:
        path: Of the file.
        mode: ``"r"`` or ``"r+"``, see the module.
        read_ahead: As in :func:`map_file`.

    Returns:
        The tensors by their names, contiguous. ``module.load_state_dict(tensors, assign=True)``
        makes them the parameters of a module without a copy.

    Raises:
        ValueError: It is no such file, or a tensor has a dtype that PyTorch has not, or is not
            aligned.
        OSError: The file cannot be opened or mapped.
    """
    _check_reading(mode)
    header, begin = _safetensors_header(path)
    found = {}
    size = 0
    for name, entry in header.items():
        try:
            shape, (start, end) = entry["shape"], entry["data_offsets"]
            dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
            if dtype is None:
                raise ValueError(f"PyTorch has no dtype {entry['dtype']}")
            if start < 0 or _end(shape, dtype, begin + start) != begin + end:
                raise ValueError(f"shape {shape} of {dtype} does not take bytes {start} to {end}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: tensor {name!r}: {error}") from error
        found[name] = (shape, dtype, begin + start)
        size = max(size, begin + end)
    mapped = _map(path, mode, size, read_ahead)
    return {name: _tensor_of(mapped, *place) for name, place in found.items()}


def _check_reading(mode: str) -> None:
    if mode not in ("r", "r+"):
        raise ValueError(f"mode has to be one of r, r+ but got {mode!r}")


def _safetensors_header(path: PathLike) -> tuple[dict[str, Any], int]:
    """Returns what the header says of each tensor, and where the first of them begins."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        size = os.fstat(file.fileno()).st_size
        try:
            if not 0 < length <= size - _LENGTH_BYTES:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
            if not isinstance(header, dict):
                raise ValueError(f"a header of {type(header)}")
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} is not a safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return header, _LENGTH_BYTES + length


def flush(target: Tensor | torch.nn.Module) -> None:
    """Returns when what was written to mapped tensors is on the disk; else that takes seconds.

    Other processes see it in the file at once, and it gets there if this process ends, or is
    killed. Only a machine that stops needs it.

    Args:
        target: A dense CPU tensor, or a module, for all of its parameters and buffers. What is no
            mapped file is left alone.

    Raises:
        RuntimeError: A tensor is not on the CPU or not dense, or the disk fails.
    """
    if isinstance(target, Tensor):
        return _C.flush(target.detach())
    for tensor in (*target.parameters(), *target.buffers()):
        _C.flush(tensor.detach())
    return None


def prefetch_rows(table: Tensor, indices: Tensor) -> int:
    """Asks the system for the pages of these rows, all at once.

    A lookup would wait for them one by one. Call it for the next batch, while this one is computed
    (:func:`prefetch_batches` does). It does not wait until they are there; if the disk has more
    questions than it takes, it waits for some of the answers.

    Args:
        table: A mapped tensor, ``(V, ...)``: the weight, or a state of its optimizer.
        indices: Integers of any shape, in ``[0, V)``.

    Returns:
        How many bytes were asked for, whether or not they are in memory already.

    Raises:
        IndexError: An index is out of range.
        RuntimeError: A tensor is not on the CPU or not dense, or the indices are no integers.
    """
    return _C.prefetch_rows(table.detach(), indices.detach())


def prefetch_batches(
    batches: Iterable[BatchT],
    rows: Callable[[BatchT], Iterable[tuple[Tensor, Tensor]]],
    ahead: int = 1,
) -> Iterator[BatchT]:
    """Yields the batches while a thread asks for the pages of those that follow.

    ::

        for batch in prefetch_batches(loader, lambda batch: [(table.weight, batch.indices)]):
            ...

    Args:
        batches: Such as a ``DataLoader``. They are taken in this thread, ``ahead`` of their turn.
        rows: The tables that a batch reads and their indices, as :func:`prefetch_rows` takes them;
            called in the other thread.
        ahead: How many batches.

    Raises:
        ValueError: ``ahead`` is less than 1.
        IndexError, RuntimeError: What :func:`prefetch_rows` raises, when it is the batch's turn.
    """
    if ahead < 1:
        raise ValueError(f"ahead has to be at least 1 but got {ahead}")
    return _prefetched(iter(batches), rows, ahead)


def _prefetched(
    batches: Iterator[BatchT],
    rows: Callable[[BatchT], Iterable[tuple[Tensor, Tensor]]],
    ahead: int,
) -> Iterator[BatchT]:
    def ask(batch: BatchT) -> None:
        for table, indices in rows(batch):
            prefetch_rows(table, indices)

    with ThreadPoolExecutor(1, "myemb-prefetch") as thread:
        asked: deque[tuple[BatchT, Future[None]]] = deque()
        for batch in islice(batches, ahead):
            asked.append((batch, thread.submit(ask, batch)))
        while asked:
            asked.extend((batch, thread.submit(ask, batch)) for batch in islice(batches, 1))
            batch, done = asked.popleft()
            done.result()
            yield batch
