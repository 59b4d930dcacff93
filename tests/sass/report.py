"""Prints the facts of the main paths for docs/cuda_evidence.md: python tests/sass/report.py."""

from __future__ import annotations

import re
from collections import defaultdict

from conftest import BUILD
from expected import KIB, expected
from sass import Kernel, read_kernels


def main() -> None:
    """A line for each main path, a column for each architecture: KiB in flight, registers."""
    main_paths = {name for name, facts in expected().items() if facts.main_path}
    kernels = read_kernels(BUILD / "libmyemb.so")
    ours = [kernel for kernel in kernels if not kernel.name.startswith("cub::")]
    by_name: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in ours:
        if kernel.name in main_paths:
            by_name[kernel.name].append(kernel)
    architectures = sorted({kernel.architecture for kernel in ours})
    print(f"{len({kernel.name for kernel in ours})} kernels\n")
    print("| kernel |", " | ".join(f"sm_{each}" for each in architectures), "|")
    print("|---|" + "---|" * len(architectures))
    for name, each in sorted(by_name.items()):
        cells = [
            f"{kernel.bytes_in_flight // KIB} KiB, {kernel.registers}"
            for kernel in sorted(each, key=lambda kernel: kernel.architecture)
        ]
        shorter = re.sub(r", RowReader<[^>]*>| >$|<(float|double)>(?=[,>])", "", name)
        print(f"| `{shorter}` |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
