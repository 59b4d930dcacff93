"""Mutants that no test can kill, because the kernel does the same: which, and why."""

from __future__ import annotations

import dataclasses
import re

from mutations import Mutant


@dataclasses.dataclass(frozen=True)
class Rule:
    """Says of some mutants why they are equivalent. Patterns that are empty match everything."""

    why: str
    kernel: str = ""
    kind: str = ""
    instruction: str = ""
    source: str = ""  # the source line
    after: str = ""  # the changed instruction

    def holds(self, kernel: str, mutant: Mutant, source: str) -> bool:
        subjects = (
            (self.kernel, kernel),
            (self.kind, mutant.kind),
            (self.instruction, str(mutant.before)),
            (self.source, source),
            (self.after, mutant.after),
        )
        return all(re.search(pattern, subject) for pattern, subject in subjects)


RULES: list[Rule] = [
    Rule(
        "__syncwarp() keeps loads together; the threads of a warp are together without it",
        kind="left out",
        instruction=r"^bar\.warp\.sync",
    ),
    Rule(
        "no grid of a test is smaller than its work, so the loop over the rest never turns",
        source=r"for \(int64_t .* < .*; .*\+= .*(count\(\)|step)"
        r"|thread_count\(\)|count\(\) \* kRows\)",
    ),
    Rule("... the same: what it would add", instruction=r"%nctaid|mul\.wide\.u32 .*, 256;"),
    Rule(
        "more than 2^31 lookups or 2^32 rows: the gradient fits into no test",
        source=r"groups_\.wide",
    ),
    Rule(
        "rounds a quotient towards zero, and is zero itself, since no such number is negative",
        instruction=r"shr\.s(32|64) \S+, \S+, (31|63);|shr\.u32 \S+, \S+, (30|29|28|27);",
    ),
    Rule(
        "which row is read by a lookup that does not count is of no consequence",
        source=r"some_row",
    ),
    Rule(
        "the sign of what is squared, or compared with zero, is of no consequence",
        kernel="Euclidean|CountNonzero",
        source=r"x < 0 \? -x : x",
    ),
    Rule(
        "a butterfly of distances 17, 8, 4, 2, 1 adds up the same threads",
        after=r"mov\.u32 \S+, 17;",
    ),
]


def why_equivalent(kernel: str, mutant: Mutant, source: str) -> str | None:
    """The reason of the first rule that holds, or None."""
    return next((rule.why for rule in RULES if rule.holds(kernel, mutant, source)), None)
