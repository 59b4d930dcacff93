"""What the text of a kernel says of its registers."""

from __future__ import annotations

import re
from collections import defaultdict

from mutations import Instruction, instructions

ZERO = re.compile(r"0|0[fd]0+")
HALVES = re.compile(r"\{(%r\d+),\s*(%r\d+)\}")


class Registers:
    """The registers of a kernel."""

    def __init__(self, text: str) -> None:
        self._writers: dict[str, list[Instruction]] = defaultdict(list)
        self._upper: set[str] = set()
        for instruction in instructions(text):
            self._writers[instruction.operands[0].split("|")[0]].append(instruction)
            halves = HALVES.fullmatch(instruction.operands[0])
            if instruction.opcode == "mov.b64" and halves:
                self._upper.add(halves[2])

    def is_zero(self, operand: str, depth: int = 8) -> bool:
        """Whether it is zero, or a register to which nothing else is written."""
        if ZERO.fullmatch(operand):
            return True
        writers = self._writers.get(operand, [])
        return (
            depth > 0
            and bool(writers)
            and all(
                writer.opcode.startswith("mov.") and self.is_zero(writer.operands[1], depth - 1)
                for writer in writers
            )
        )

    def is_upper_half(self, operand: str) -> bool:
        """Whether it is bits 32 to 63 of a number of 64 bits."""
        return operand in self._upper
