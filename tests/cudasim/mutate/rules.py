"""What a reason can ask of a mutant, of where it is and of the registers there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from mutations import Instruction, Mutant, split_operands
from registers import Registers


@dataclasses.dataclass(frozen=True)
class Context:
    """Where a mutant is.

    Attributes:
        kernel: Its short name.
        mutant: The change.
        source: The file and number of the source line, and the line.
        registers: Those of the kernel.
        reached: Whether any test runs the instruction,
        line_reached: or at least another one of its source line.
    """

    kernel: str
    mutant: Mutant
    source: str
    registers: Registers
    reached: bool
    line_reached: bool

    @property
    def before(self) -> Instruction:
        return self.mutant.before

    @property
    def operands_after(self) -> tuple[str, ...]:
        return split_operands(self.mutant.after.partition(" ")[2].rstrip(";"))


@dataclasses.dataclass(frozen=True)
class Rule:
    """Says of some mutants why they are equivalent. What is empty holds for everything."""

    why: str
    kernel: str = ""
    kind: str = ""
    instruction: str = ""
    source: str = ""  # the source line
    after: str = ""  # the changed instruction
    when: Callable[[Context], bool] = lambda context: True

    def holds(self, context: Context) -> bool:
        subjects = (
            (self.kernel, context.kernel),
            (self.kind, context.mutant.kind),
            (self.instruction, str(context.before)),
            (self.source, context.source),
            (self.after, context.mutant.after),
        )
        return all(re.search(*subject) for subject in subjects) and self.when(context)


def stays_zero(context: Context) -> bool:
    """Whether a move of zero moves another zero."""
    if not context.before.opcode.startswith("mov."):
        return False
    sources = [context.before.operands[1], *context.operands_after[1:2]]
    return all(context.registers.is_zero_at(source, context.before.at) for source in sources)


def moves_upper_half(context: Context) -> bool:
    """Whether an exchange between threads is of bits 32 to 63."""
    return context.registers.is_upper_half(context.before.operands[1])


def moves_minus_one(context: Context) -> bool:
    return context.before.opcode.startswith("mov.") and context.registers.is_minus_one(
        context.before.operands[1]
    )


def rounds_a_quotient(context: Context) -> bool:
    """Whether the last operand is what rounds a quotient towards zero."""
    return context.registers.rounds_a_quotient(context.before.operands[-1])


def is_only_compared_with_null(context: Context) -> bool:
    """Whether the instruction computes or compares an address that nothing is read from."""
    before = context.before
    address = before.operands[before.opcode.startswith("setp.")]
    return context.registers.is_only_compared_with_null(address)
