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
    for kernel, of_block, of_sum, of_max in (
        ("reduce_segments", "true", sums, maxima),
        ("reduce_chunks", "false", of_chunks(sums), of_chunks(maxima)),
    ):
        for source, reads, stores, places in (
            (f"Bags<{a}>", f"RowReader<{dtype}, {n}>", "StoreRows", "MaxRows"),
            (
                f"FeatureBags<{a}, {of_block}>",
                f"FeatureReader<{dtype}, {n}>",
                "StoreInTables",
                "MaxInTables",
            ),
        ):
            reduced = f"{kernel}<{dtype}, {n}, {source}, {reads}"
            table[f"{reduced}, Sum<{dtype}, {n}, {stores}<{dtype}> > >"] = of_sum
            table[f"{reduced}, Max<{dtype}, {n}, {places}<{dtype}> > >"] = of_max
    return table | run_reductions(dtype, n, sums)


def of_chunks(expected: Expected) -> Expected:
    """With twice the rows in flight, in half the blocks."""
    return dataclasses.replace(expected, registers=128, wide_loads=2 * expected.wide_loads)


def run_reductions(dtype: str, n: int, sums: Expected) -> dict[str, Expected]:
    """The kernels that add up the rows of sorted lookups."""
    a = accumulator(dtype)
    wide = n * SIZES[dtype] == 16
    readers = {f"Runs<{a}>, RowReader<{dtype}, {n}>": wide}
    if wide or n <= 2:
        readers[f"Runs<{a}>, WhereMax<{dtype}, {n}>"] = False
    of_tables = f"AnyRow<{dtype}>" if n == 1 else f"RowReader<{dtype}, {n}>"
    readers[f"TableRuns<{a}>, {of_tables}"] = wide
    table: dict[str, Expected] = {}
    for reads, main_path in readers.items():
        is_one_table = reads.startswith("Runs")
        chunks = f"reduce_chunks<{dtype}, {n}, {reads}, Sum<{dtype}, {n}, StoreRows<{dtype}> > >"
        table[chunks] = of_chunks(dataclasses.replace(sums, main_path=main_path))
        sink = "StoreRows" if is_one_table else "StoreInTables"
        for average in ("false", "true") if is_one_table else ("false",):
            table[f"reduce_runs<{dtype}, {n}, {average}, {reads}, {sink}<{dtype}> >"] = (
                dataclasses.replace(sums, registers=80, main_path=main_path)
            )
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
            # Rows of the gradient and of the table are of T, states of the accumulator type.
            written = states * is_wide + is_float
            for runs, reader, tables in (
                (f"Runs<{a}>", reads, "OneTable"),
                (f"TableRuns<{a}>", reads, "ManyTables"),
            ):
                sink = f"ApplyRule<{dtype}, {rule}, {tables}<{dtype}> >"
                table[f"reduce_runs<{dtype}, {n}, true, {runs}, {reader}, {sink} >"] = Expected(
                    registers=80,
                    wide_loads=written + 4 * is_float,
                    wide_stores=written,
                    main_path=0.75 * is_float,
                )
                table[f"join_sums<{dtype}, {runs}, {sink} >"] = Expected()
            table[f"update_rows<{dtype}, {n}, ApplyRule<{dtype}, {rule}, OneTable<{dtype}> > >"] = (
                Expected(
                    wide_loads=written + is_float,
                    wide_stores=written,
                    main_path=0.75 * is_float or 0.5 * is_wide,
                )
            )
        for runs in (
            f"Runs<{a}>, {reads}, OneTable<{dtype}>",
            f"EveryRow<{a}>, RowReader<{dtype}, {n}>, OneTable<{dtype}>",
            f"TableRuns<{a}>, {reads}, ManyTables<{dtype}>",
        ):
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
    for source, sink in (
        (f"Bags<{a}>", "StoreRows"),
        (f"Runs<{a}>", "StoreRows"),
        (f"FeatureBags<{a}, false>", "StoreInTables"),
        (f"TableRuns<{a}>", "StoreInTables"),
    ):
        table[f"join_sums<{dtype}, {source}, {sink}<{dtype}> >"] = Expected()
    for maxima in (
        f"Bags<{a}>, RowReader<{dtype}, 1>, MaxRows<{dtype}>",
        f"FeatureBags<{a}, false>, FeatureReader<{dtype}, 1>, MaxInTables<{dtype}>",
    ):
        table[f"join_maxima<{dtype}, {maxima} >"] = Expected()
    for norm in NORMS:
        table[f"renorm_rows<{dtype}, 1, {norm}<{a}> >"] = Expected(registers=80)
    return table | lane_reductions(dtype) | updates(dtype)


def lane_reductions(dtype: str) -> dict[str, Expected]:
    """The kernels whose threads hold n lanes of a row and read as many columns at once."""
    table: dict[str, Expected] = {}
    for n in widths(dtype):
        wide = n * SIZES[dtype] == 16
        for dots in ("BagDots", "TableDots"):
            table[f"dot_rows<{dtype}, {n}, false, {dots}<{dtype}, {n}, false> >"] = Expected(
                registers=80, wide_loads=8 * wide
            )
            if n <= 4:  # positions are read along with the rows
                table[f"dot_rows<{dtype}, {n}, true, {dots}<{dtype}, {n}, true> >"] = Expected(
                    registers=96, wide_loads=4 * wide
                )
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
        for kernel in ("count_bags", "count_feature_bags", "divide_by_frequency", "find_sources"):
            table[f"{kernel}<{a}>"] = Expected()
    for types in ("unsigned int, int", "unsigned long, long"):
        table[f"number_lookups<{types}>"] = Expected()
        row = types.split(",")[0]
        table[f"flag_rows<{row}>"] = table[f"store_rows<{row}>"] = Expected()
        for a in ("float", "double"):
            table[f"number_tables<{a}, {types}>"] = Expected()
    for checks in ("check_bags", "check_features", "check_offsets"):
        table[checks] = Expected()
    for places in ("MaximaPlaces", "FeatureMaximaPlaces"):
        table[f"mark_maxima<{places}>"] = Expected()
    for counts in ("count_windows", "count_feature_windows"):
        table[counts] = Expected()
    return table
