"""Embeddings for PyTorch: lookup, bags and renormalisation as ``torch.ops.myemb.*``.

``myemb.functional`` and ``myemb.nn`` have the signatures of ``torch.nn.functional`` and
``torch.nn``; ``myemb.replace_embeddings_(model)`` swaps the modules of an existing model.
Importing this package loads ``libmyemb.so``, which registers the operators with PyTorch's
dispatcher.

Attributes:
    cmake_prefix_path: The directory for ``CMAKE_PREFIX_PATH`` with which ``find_package(myemb)``
        finds this installation from a C++ project, as ``torch.utils.cmake_prefix_path`` does for
        LibTorch.
"""

from pathlib import Path

import torch

from ._build_info import TORCH_VERSION

__all__ = [
    "__version__",
    "cmake_prefix_path",
    "decomposition_table",
    "decompositions",
    "disk",
    "empty_cache",
    "functional",
    "huge_pages_",
    "memory",
    "nn",
    "optim",
    "prefetch_rows",
    "replace_embeddings_",
    "restore_embeddings_",
    "set_cache_limit",
]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _check_torch() -> None:
    """Refuses another torch in words: the loader would only name an undefined symbol.

    libtorch keeps no C++ ABI between minor versions.
    """
    built = TORCH_VERSION
    if _minor(built) != _minor(torch.__version__):
        raise ImportError(
            f"myemb was compiled against torch {built}, but torch {torch.__version__} is "
            f"installed: install torch {_minor(built)}, or rebuild myemb here with "
            "`pip install --no-build-isolation --force-reinstall --no-deps <source of myemb>`."
        )


_check_torch()

_package = Path(__file__).resolve().parent
cmake_prefix_path: str = str(_package / "share" / "cmake")

torch.ops.load_library(_package / "lib" / "libmyemb.so")  # type: ignore[no-untyped-call]

# These bind the operators that load_library has just registered.
from . import _C, _batching, decompositions, disk, functional, memory, nn, optim  # noqa: E402
from .convert import replace_embeddings_, restore_embeddings_  # noqa: E402
from .decompositions import decomposition_table  # noqa: E402
from .disk import prefetch_rows  # noqa: E402
from .memory import empty_cache, huge_pages_, set_cache_limit  # noqa: E402

__version__: str = _C.version

_batching.register()
