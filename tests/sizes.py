"""No file has more than 400 lines, no function more than 60 lines of code: `make lint` runs this.

Docstrings are not counted, nor are the lines of a signature. C++ is read as clang-format writes it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES, FUNCTION_LINES = 400, 60
CXX = {".cpp", ".h", ".cu", ".cuh"}

# What hides braces.
HIDDEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'
    r"(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'",
    re.DOTALL,
)
# What comes before a brace that begins no function. (The schemas of the library are a table.)
NO_FUNCTION = re.compile(
    r"(?:(?:public|private|protected)\s*:\s*)?(?:template\s*<.*>\s*)?"
    r"(?:namespace|class|struct|union|enum|extern|TORCH_LIBRARY\()|.*=\s*$",
    re.DOTALL,
)


def python_functions(text: str) -> Iterator[tuple[int, int]]:
    """Yields where functions begin, and their lines of code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            last = node.end_lineno or node.lineno
            yield node.lineno, last - body[0].lineno + 1 if body else 0


def cxx_functions(text: str) -> Iterator[tuple[int, int]]:
    """Yields where the braces of functions open, and the lines between them."""
    text = HIDDEN.sub(lambda hidden: "\n" * hidden[0].count("\n"), text)
    text = re.sub(r"^#.*(?:\\\n.*)*", lambda line: "\n" * line[0].count("\n"), text, flags=re.M)
    open_blocks: list[tuple[bool, int]] = []  # whether it is a function, and the line
    head = 0
    for match in re.finditer(r"[{};]", text):
        line = text.count("\n", 0, match.start()) + 1
        if match[0] == "{":
            words = text[head : match.start()].strip()
            inside = any(is_function for is_function, _ in open_blocks)
            is_function = "(" in words and not inside and not NO_FUNCTION.match(words)
            open_blocks.append((is_function, line))
        elif match[0] == "}" and open_blocks:
            is_function, begin = open_blocks.pop()
            if is_function:
                yield begin, line - begin - 1
        head = match.end()


def too_large(name: str, text: str) -> Iterator[str]:
    """Yields what is larger than it may be, of a file."""
    if (lines := text.count("\n")) > FILE_LINES:
        yield f"{name}: {lines} lines, of {FILE_LINES}"
    functions = python_functions if name.endswith(".py") else cxx_functions
    for begin, length in functions(text):
        if length > FUNCTION_LINES:
            yield f"{name}:{begin}: a function of {length} lines, of {FUNCTION_LINES}"


def main() -> int:
    """Returns 1 if something is too large."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    sources = [name for name in names.split() if Path(name).suffix in {".py", *CXX}]
    found: list[str] = []
    for name in sources:
        if (ROOT / name).exists():  # and not deleted since
            found += too_large(name, (ROOT / name).read_text(encoding="utf-8"))
    print("\n".join(sorted(found)) or f"sizes: {len(sources)} files are small enough")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
