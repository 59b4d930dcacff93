"""What each kind of work has to reach: ratios of medians in one run.

``torch``, ``dense`` (PyTorch with dense gradients) and ``fbgemm`` are speed-ups at two threads,
``limit`` the part of the limit's speed at any number of threads. They hold for each case; ``mean``
is the geometric mean of the speed-ups over torch that all cases of the target have to reach
together.
"""

from __future__ import annotations

import dataclasses
import enum


class Against(enum.Enum):
    """The limit that a case is measured by: an engine's name."""

    REUSED = "limit"  # into memory that is mapped already; grouping is given for free
    HUGE = "lim+huge"  # into fresh memory in huge pages
    SORT = "lim+sort"  # grouping is part of the work


@dataclasses.dataclass(frozen=True)
class Target:
    """A row of the table of targets; ``None`` where nothing is asked for."""

    name: str
    torch: float | None
    limit: float | None
    against: Against = Against.REUSED
    fbgemm: float | None = None
    mean: float | None = None
    dense: float | None = None


LOOKUP = Target("lookup, output < 32 MiB", 1.0, 0.9, mean=1.15)
LOOKUP_NARROW = Target("lookup, output < 32 MiB, D = 16", 1.4, 0.9)
LOOKUP_FRESH = Target("lookup, output >= 32 MiB, fresh", 1.5, 0.85, Against.HUGE)
LOOKUP_LOOP = Target("lookup, output >= 32 MiB, dropped in a loop", 3.0, 0.8)
BAG_SUM = Target("bag sum", 1.0, 0.92, fbgemm=2.4)
BAG_MEAN = Target("bag mean", 1.1, 0.92, fbgemm=2.4)
BAG_MAX = Target("bag max", 8.0, 0.85)
BAG_MAX_16 = Target("bag max, 16 bits", 15.0, 0.85)
BAG_SLOW = Target("bag with padding_idx, fp64 or strided", 5.5, 0.87)
SPARSE_COALESCED = Target("sparse gradient of a lookup, coalesced", 2.3, 0.8, Against.SORT, mean=4)
BAG_SPARSE = Target("sparse gradient of a bag", 2.7, 0.8)
BAG_COALESCED = Target("sparse gradient of a bag, coalesced", 5.5, 0.8, Against.SORT)
DENSE_FRESH = Target("dense gradient >= 32 MiB, fresh", 1.6, None, Against.HUGE)
DENSE_LOOP = Target("dense gradient >= 32 MiB, dropped in a loop", 5.5, 0.65)
DENSE_SMALL = Target("dense gradient in cache", 2.4, 0.6)
RENORM = Target("renorm", 35.0, 0.75, Against.SORT)
MAX_NORM = Target("lookup and bag with max_norm", 22.0, 0.75, Against.SORT)
CALL = Target("one call, functional", 1.35, 0.87)
CALL_MODULE = Target("one call, module", 2.5, 0.87)
CALL_BAG = Target("one call, bag", 2.1, 0.87)
CALL_GRAD = Target("one call, with grad", 2.0, 0.87)
CALL_BAG_GRAD = Target("one call, bag with grad", 2.0, 0.87)
PAGES_LOOKUP = Target("lookup from a table in huge pages", 1.2, None)
PAGES_BAG = Target("bag from a table in huge pages", 1.4, None)
STEP = {
    "sgd": Target("step, SGD", 1.25, 0.75, Against.SORT, fbgemm=2, dense=14),
    "adagrad": Target("step, Adagrad", 2.2, 0.75, Against.SORT, fbgemm=3),
    "row_wise_adagrad": Target("step, row-wise Adagrad", 2.9, 0.75, Against.SORT, fbgemm=8),
    "adam": Target("step, Adam", 3.0, 0.75, Against.SORT),
}
STEP_BAG = {
    "sgd": Target("step, SGD, bags", 2.4, 0.75, Against.SORT, fbgemm=2.4),
    "adagrad": Target("step, Adagrad, bags", 5.0, 0.75, Against.SORT, fbgemm=4),
    "row_wise_adagrad": Target("step, row-wise Adagrad, bags", 7.0, 0.75, Against.SORT, fbgemm=8),
    "adam": Target("step, Adam, bags", 4.0, 0.75, Against.SORT),
}
STEP_SMALL = Target("step, small table", None, None, Against.SORT, dense=3)
TABLES = Target("26 tables, bags of 1 to 20", 1.07, None, fbgemm=1.7)
TABLES_ONE = Target("26 tables, bags of 1", 2.4, None, fbgemm=3)
TABLES_SMALL = Target("26 tables, 128 bags of 1", 7.0, None)
TABLES_STEP = {
    "sgd": Target("26 tables, SGD", 3.5, None, Against.SORT, fbgemm=4),
    "row_wise_adagrad": Target("26 tables, row-wise Adagrad", 9.0, None, Against.SORT, fbgemm=4),
}
UNRANKED = Target("no target", None, None)

SCALING = 1.7  # two threads against one, where more than SCALING_BYTES move
SCALING_BYTES = 1 << 20
SKEW = 0.6  # GB/s of a skewed case against its uniform one, at two threads
