"""What is expected of each kernel in the library, for every architecture."""

from __future__ import annotations

import dataclasses

from sass import GPUS

KIB = 1024
SIZES = {"float": 4, "double": 8, "Half": 2, "BFloat16": 2}
NORMS = ("Euclidean", "SumAbs", "MaxAbs", "MinAbs", "CountNonzero", "PowerNorm")

# A load takes about this long when memory is busy.
LATENCY = 700e-9

# An H100 needs 17 KiB under way in each SM, a B200 37 (Gpu.bytes_to_hide). 48 leaves room for what
# the model leaves out: waiting for indices, and warps that start and end.
IN_FLIGHT = 48 * KIB
MARGIN = IN_FLIGHT / GPUS[90].bytes_to_hide(LATENCY)


def floor(architecture: int) -> int:
    """Bytes of loads that an SM has to have under way on a main path.

    Half as many warps fit on an SM of Turing and three quarters on one of consumer Blackwell, and
    their share of the bandwidth is smaller too: 6 and 7 KiB would do. They get the margin of an
    H100, not its number.
    """
    if architecture in (80, 90, 100):
        return IN_FLIGHT
    return int(MARGIN * GPUS[architecture].bytes_to_hide(LATENCY))


@dataclasses.dataclass(frozen=True)
class Expected:
    """Facts about a kernel.

    Besides, no kernel of ours has spills, a stack, 64-bit divisions or atomics.
    """

    registers: int = 64  # at most; 64 let four blocks of 256 threads run on an SM, 80 three
    wide_loads: int = 0  # at least so many of 16 bytes
    wide_stores: int = 0
    main_path: float = 0  # this share of floor() has to be under way


def accumulator(dtype: str) -> str:
    return "double" if dtype == "double" else "float"


def widths(dtype: str) -> list[int]:
    """How many values a thread may read at once: 16 bytes of them, or less."""
    return [n for n in (1, 2, 4, 8) if n * SIZES[dtype] <= 16]


def reductions(dtype: str, n: int) -> dict[str, Expected]:
    """The kernels that read rows, n values at a time, and reduce them."""
    a = accumulator(dtype)
    wide = n * SIZES[dtype] == 16
    sums = Expected(wide_loads=4 * wide, wide_stores=1 * wide, main_path=wide)
    maxima = Expected(registers=72, wide_loads=4 * wide, wide_stores=1 * wide)
    table: dict[str, Expected] = {}
    for kernel in ("reduce_segments", "reduce_chunks"):
        reads = f"RowReader<{dtype}, {n}>"
        table[f"{kernel}<{dtype}, {n}, Bags<{a}>, {reads}, Sum<{dtype}, {n}> >"] = sums
        table[f"{kernel}<{dtype}, {n}, Bags<{a}>, {reads}, Max<{dtype}, {n}> >"] = maxima
    readers = {f"RowReader<{dtype}, {n}>": wide}
    if n * 8 <= 16 and SIZES[dtype] * n < 16:  # with a position for each value
        readers[f"WhereMax<{dtype}, {n}>"] = False
    for reads, main_path in readers.items():
        chunks = f"reduce_chunks<{dtype}, {n}, Runs<{a}>, {reads}, Sum<{dtype}, {n}> >"
        table[chunks] = dataclasses.replace(sums, main_path=main_path)
        for average in ("false", "true"):
            table[
                f"reduce_runs<{dtype}, {n}, {average}, Runs<{a}>, {reads}, StoreRows<{dtype}> >"
            ] = dataclasses.replace(sums, registers=80, main_path=main_path)
    return table


def rules(a: str) -> dict[str, int]:
    """The rules of optimizers and how many states they have."""
    counts = {"Sgd": 0, "RowWiseAdagrad": 0, "SgdMomentum": 1, "Adagrad": 1}
    table = {f"{rule}<{a}>": states for rule, states in counts.items()}
    return table | {f"Adam<{a}, false>": 2, f"Adam<{a}, true>": 3}


def updates(dtype: str) -> dict[str, Expected]:
    """The kernels that apply a rule: to four columns at a time, or to one.

    Adam reads 48 bytes of one row at a time, three quarters of the margin. With 16 bits rows are
    read in accesses of 8 bytes, by which their loop cannot be told from others.
    """
    a, table = accumulator(dtype), {}
    for n in (1,) if dtype == "double" else (1, 4):
        reads = f"AnyRow<{dtype}>" if n == 1 else f"RowReader<{dtype}, {n}>"
        is_wide, is_float = n == 4, n == 4 and dtype == "float"
        for rule, states in rules(a).items():
            sink = f"ApplyRule<{dtype}, {rule} >"
            # Rows of the gradient and of the table are of T, states of the accumulator type.
            written = states * is_wide + is_float
            table[f"reduce_runs<{dtype}, {n}, true, Runs<{a}>, {reads}, {sink} >"] = Expected(
                registers=80,
                wide_loads=written + 4 * is_float,
                wide_stores=written,
                main_path=0.75 * is_float,
            )
            table[f"update_rows<{dtype}, {n}, {sink} >"] = Expected(
                wide_loads=written + is_float,
                wide_stores=written,
                main_path=0.75 * is_float or 0.5 * is_wide,
            )
            table[f"join_sums<{dtype}, Runs<{a}>, {sink} >"] = Expected()
        for runs in (f"Runs<{a}>, {reads}", f"EveryRow<{a}>, RowReader<{dtype}, {n}>"):
            table[f"add_mean_squares<{dtype}, {n}, {runs} >"] = Expected(registers=128)
    return table


def kernels_of(dtype: str) -> dict[str, Expected]:
    """The kernels that exist once for each dtype of a table."""
    a = accumulator(dtype)
    table: dict[str, Expected] = {}
    for n in widths(dtype):
        table |= reductions(dtype, n)
        wide = n * SIZES[dtype] == 16
        table[f"scale_rows<{dtype}, {n}>"] = Expected(wide_loads=4 * wide, wide_stores=4 * wide)
    for source in ("Bags", "Runs"):
        table[f"join_sums<{dtype}, {source}<{a}>, StoreRows<{dtype}> >"] = Expected()
    table[f"join_maxima<{dtype}, Bags<{a}> >"] = Expected()
    for norm in NORMS:
        table[f"renorm_rows<{dtype}, 1, {norm}<{a}> >"] = Expected(registers=80)
    return table | lane_reductions(dtype) | updates(dtype)


def lane_reductions(dtype: str) -> dict[str, Expected]:
    """The kernels whose threads hold n lanes of a row and read as many columns at once."""
    table: dict[str, Expected] = {}
    for n in widths(dtype):
        wide = n * SIZES[dtype] == 16
        table[f"dot_rows<{dtype}, {n}, false>"] = Expected(registers=80, wide_loads=8 * wide)
        if n <= 4:  # positions are read along with the rows
            table[f"dot_rows<{dtype}, {n}, true>"] = Expected(registers=96, wide_loads=4 * wide)
        if n > 1:  # only the norm that everybody uses
            table[f"renorm_rows<{dtype}, {n}, Euclidean<{accumulator(dtype)}> >"] = Expected(
                registers=80, wide_loads=4 * wide, wide_stores=4 * wide
            )
    return table


def expected() -> dict[str, Expected]:
    """Every kernel of cuda/ by name, without those that are CUB's."""
    table: dict[str, Expected] = {}
    for dtype in SIZES:
        table |= kernels_of(dtype)
    for word in ("unsigned char", "unsigned short", "unsigned int", "uint2", "uint4"):
        wide = word == "uint4"
        table[f"copy_rows<{word}>"] = Expected(
            wide_loads=4 * wide, wide_stores=4 * wide, main_path=wide
        )
    for a in ("float", "double"):
        for kernel in ("count_bags", "divide_by_frequency", "find_sources"):
            table[f"{kernel}<{a}>"] = Expected()
    for types in ("unsigned int, int", "unsigned long, long"):
        table[f"number_lookups<{types}>"] = Expected()
    table["check_bags"] = Expected()
    table["check_offsets"] = Expected()
    table["count_windows"] = Expected()
    return table
