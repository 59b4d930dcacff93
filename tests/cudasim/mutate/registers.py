"""What the text of a kernel says of its registers."""

from __future__ import annotations

import re
from collections import defaultdict

from mutations import Instruction, instructions

ZERO = re.compile(r"0|0[fd]0+")
HALVES = re.compile(r"\{(%r\d+),\s*(%r\d+)\}")
LABEL = re.compile(r"^\s*\$\w+:")


class Registers:
    """The registers of a kernel."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._writers: dict[str, list[Instruction]] = defaultdict(list)
        self._readers: dict[str, list[Instruction]] = defaultdict(list)
        self._upper: set[str] = set()
        for instruction in instructions(text):
            self._writers[instruction.operands[0].split("|")[0]].append(instruction)
            halves = HALVES.fullmatch(instruction.operands[0])
            if instruction.opcode == "mov.b64" and halves:
                self._upper.add(halves[2])
            for read in re.findall(r"%\w+", ",".join(instruction.operands[1:])):
                self._readers[read].append(instruction)

    def is_zero(self, operand: str, depth: int = 8) -> bool:
        """Whether it is zero, or a register to which nothing else is written."""
        return self._is_always(ZERO, operand, depth)

    def is_minus_one(self, operand: str) -> bool:
        return self._is_always(re.compile("-1"), operand, depth=8)

    def is_zero_at(self, operand: str, at: int) -> bool:
        """Whether it is zero in line ``at``: always, or by what is written just before."""
        if self.is_zero(operand):
            return True
        before = {writer.at: writer for writer in self._writers.get(operand, []) if writer.at < at}
        if not before:
            return False
        last = before[max(before)]
        straight = not any(LABEL.match(line) for line in self._lines[last.at : at])
        return (
            straight
            and not last.guard
            and last.opcode.startswith("mov.")
            and self.is_zero_at(last.operands[1], last.at)
        )

    def is_upper_half(self, operand: str) -> bool:
        """Whether it is bits 32 to 63 of a number of 64 bits."""
        return operand in self._upper

    def rounds_a_quotient(self, operand: str) -> bool:
        """Whether it is the sign of a number, or that shifted right: what a division adds to it."""
        return self._all_written_by(operand, r"shr\.u(32 \S+, \S+, 31|64 \S+, \S+, 63);") or (
            self._all_written_by(operand, r"shr\.u(32|64) ")
            and all(
                self._all_written_by(writer.operands[1], r"shr\.s(32|64) \S+, \S+, (31|63);")
                for writer in self._writers[operand]
            )
        )

    def _all_written_by(self, operand: str, pattern: str) -> bool:
        writers = self._writers.get(operand, [])
        return bool(writers) and all(re.match(pattern, str(writer)) for writer in writers)

    def is_only_compared_with_null(self, operand: str, depth: int = 2) -> bool:
        """Whether nothing else is done with it, nor with what is added to it."""
        readers = self._readers.get(operand, [])
        return bool(readers) and all(
            re.fullmatch(rf"setp\.(eq|ne)\.s64 \S+, {operand}, 0;", str(reader))
            or (
                depth > 0
                and reader.opcode.startswith("add.s64")
                and self.is_only_compared_with_null(reader.operands[0], depth - 1)
            )
            for reader in readers
        )

    def _is_always(self, value: re.Pattern[str], operand: str, depth: int) -> bool:
        if value.fullmatch(operand):
            return True
        writers = self._writers.get(operand, [])
        return (
            depth > 0
            and bool(writers)
            and all(
                writer.opcode.startswith("mov.")
                and self._is_always(value, writer.operands[1], depth - 1)
                for writer in writers
            )
        )
