"""One-instruction changes of a kernel's PTX."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterator

INSTRUCTION = re.compile(r"^\s*(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s+(.*?)\s*;\s*$")
LOCATION = re.compile(r"^\s*\.loc\s+(\d+)\s+(\d+)(?:.*inlined_at\s+(\d+)\s+(\d+))?")
INTEGER = re.compile(r"-?\d+")
REGISTER = re.compile(r"%([a-z]+)\d+")

COMPARISONS = {
    "lt": ("le", "ge"),
    "le": ("lt", "gt"),
    "gt": ("ge", "le"),
    "ge": ("gt", "lt"),
    "eq": ("ne",),
    "ne": ("eq",),
    "leu": ("ltu", "gt"),
    "ltu": ("leu", "ge"),
    "geu": ("gtu", "lt"),
    "gtu": ("geu", "le"),
    "neu": ("eq",),
    "equ": ("ne",),
}
# The opcode begins with the first; the rest of it stays, unless the second has the type too.
OPCODES = (
    ("add.", "sub."),
    ("sub.", "add."),
    ("mul.f", "add.f"),
    ("mul.rn.", "add.rn."),
    ("div.rn.", "mul.rn."),
    ("and.", "or."),
    ("or.", "and."),
    ("xor.", "and."),
    ("shl.b", "shr.b"),
    ("shr.u", "shl.b"),
    ("shr.s", "shr.u"),
    ("min.", "max."),
    ("max.", "min."),
    ("abs.", "neg."),
    ("vote.sync.any", "vote.sync.all"),
    ("vote.sync.all", "vote.sync.any"),
    ("shfl.sync.idx", "shfl.sync.up"),
    ("shfl.sync.bfly", "shfl.sync.down"),
    ("shfl.sync.down", "shfl.sync.up"),
    ("cvt.rn.", "cvt.rz."),
    ("cvt.s64.s32", "cvt.u64.u32"),
    ("mul.wide.s", "mul.wide.u"),
    ("popc.", "clz."),
    ("clz.", "popc."),
)
NOT_COMMUTATIVE = (
    "sub.",
    "shl.",
    "shr.",
    "div.",
    "selp.",
    "setp.lt",
    "setp.gt",
    "setp.le",
    "setp.ge",
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a kernel, and where it comes from."""

    at: int  # its line in the text of the kernel
    guard: str  # "", "%p1" or "!%p1"
    opcode: str
    operands: tuple[str, ...]
    locations: tuple[tuple[int, int], ...]  # number of the file and line; then where it is inlined

    def __str__(self) -> str:
        guard = f"@{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)};"

    def but(self, **changes: object) -> Instruction:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def with_operand(self, index: int, operand: str) -> Instruction:
        operands = list(self.operands)
        operands[index] = operand
        return self.but(operands=tuple(operands))


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A kernel with one instruction changed."""

    kind: str
    before: Instruction
    after: str  # empty: the instruction is left out

    def applied_to(self, text: str) -> str:
        lines = text.split("\n")
        lines[self.before.at] = f"\t{self.after}"
        return "\n".join(lines)


def split_operands(text: str) -> tuple[str, ...]:
    """Splits at commas outside of {...} and [...]."""
    return tuple(part.strip() for part in re.split(r",\s*(?![^{\[]*[}\]])", text) if part.strip())


def instructions(text: str) -> list[Instruction]:
    """The instructions of a kernel that compute something.

    Those that prepare the call by which an assertion fails are left out, and so are parameters.
    """
    found, locations = [], ()
    for at, line in enumerate(text.split("\n")):
        if match := LOCATION.match(line):
            own, inlined_at = match.group(1, 2), match.group(3, 4)
            locations = tuple((int(f), int(n)) for f, n in (own, inlined_at) if f is not None)
        match = INSTRUCTION.match(line)
        if not match or re.match(r"(cvta|call|ld\.param|st\.param|ret|trap|exit)\b", match[3]):
            continue
        if "$str" in line or "__unnamed" in line:
            continue
        guard = f"{match[1]}{match[2]}" if match[2] else ""
        found.append(Instruction(at, guard, match[3], split_operands(match[4]), locations))
    return found


# ---- each yields the changed instruction, or "" to leave it out ----------------------------------


def comparison(i: Instruction, _: list[Instruction]) -> Iterator[str]:
    if i.opcode.startswith(("setp.", "set.")):
        name, operator, rest = i.opcode.split(".", 2)
        for other in COMPARISONS.get(operator, ()):
            yield str(i.but(opcode=f"{name}.{other}.{rest}"))


def operation(i: Instruction, _: list[Instruction]) -> Iterator[str]:
    for old, new in OPCODES:
        if i.opcode.startswith(old):
            yield str(i.but(opcode=new + i.opcode.removeprefix(old)))


def constant(i: Instruction, _: list[Instruction]) -> Iterator[str]:
    # The last operand of a shuffle or a vote names the threads that take part.
    last = len(i.operands) - (".sync" in i.opcode)
    for index, operand in enumerate(i.operands[:last]):
        if INTEGER.fullmatch(operand):
            yield str(i.with_operand(index, str(int(operand) + 1)))
            yield str(i.with_operand(index, str(int(operand) - 1)))
        elif operand in ("0f00000000", "0d0000000000000000"):
            yield str(
                i.with_operand(index, {10: "0f3F800000", 18: "0d3FF0000000000000"}[len(operand)])
            )
        elif re.fullmatch(r"0[fd][0-9A-F]+", operand):
            yield str(i.with_operand(index, operand[:2] + "0" * (len(operand) - 2)))
        elif match := re.fullmatch(r"\[(%rd\d+)\+(-?\d+)\]", operand):
            yield str(i.with_operand(index, f"[{match[1]}]"))
            yield str(i.with_operand(index, f"[{match[1]}+{2 * int(match[2])}]"))


def other_operand(i: Instruction, before: list[Instruction]) -> Iterator[str]:
    """Takes a register of the same kind that was written shortly before."""
    for index, operand in enumerate(i.operands):
        kind = REGISTER.fullmatch(operand)
        if index == 0 or not kind:
            continue
        written = [other.operands[0] for other in before[-8:] if other.operands]
        for register in written:
            same = REGISTER.fullmatch(register)
            if same and same[1] == kind[1] and register != operand:
                yield str(i.with_operand(index, register))


def swapped_operands(i: Instruction, _: list[Instruction]) -> Iterator[str]:
    if i.opcode.startswith(NOT_COMMUTATIVE) and len(i.operands) >= 3:
        first, second = i.operands[1:3]
        if first != second:
            yield str(i.with_operand(1, second).with_operand(2, first))


def predicate(i: Instruction, _: list[Instruction]) -> Iterator[str]:
    if i.guard:
        yield str(i.but(guard=i.guard[1:] if i.guard.startswith("!") else f"!{i.guard}"))
        yield str(i.but(guard=""))
    elif i.opcode.startswith("selp") and i.operands[3].startswith("%p"):
        return  # the same as to swap its operands


def left_out(i: Instruction, _: list[Instruction]) -> Iterator[str]:
    if i.opcode != "bra.uni":
        yield ""


KINDS: dict[str, Callable[[Instruction, list[Instruction]], Iterator[str]]] = {
    "comparison": comparison,
    "operation": operation,
    "constant": constant,
    "other operand": other_operand,
    "swapped operands": swapped_operands,
    "predicate": predicate,
    "left out": left_out,
}


def mutants_of(text: str, seed: str, limit: int | None) -> list[Mutant]:
    """All mutants of a kernel, or ``limit`` of them: of as many instructions as there are."""
    by_instruction: list[list[Mutant]] = []
    body = instructions(text)
    for index, instruction in enumerate(body):
        changes = [
            Mutant(kind, instruction, after)
            for kind, mutate in KINDS.items()
            for after in dict.fromkeys(mutate(instruction, body[:index]))
        ]
        if changes:
            by_instruction.append(changes)
    if limit is None:
        return [mutant for changes in by_instruction for mutant in changes]
    chance = random.Random(seed)
    chosen = chance.sample(by_instruction, min(limit, len(by_instruction)))
    picked = []
    for changes in chosen:  # a kind first, or the many other operands would crowd out the rest
        kind = chance.choice(sorted({mutant.kind for mutant in changes}))
        picked.append(chance.choice([mutant for mutant in changes if mutant.kind == kind]))
    return sorted(picked, key=lambda mutant: mutant.before.at)
