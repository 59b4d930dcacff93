"""tests/sizes.py, which `make lint` runs, measures functions and not what looks like them."""

from __future__ import annotations

import runpy
from pathlib import Path

SIZES = runpy.run_path(str(Path(__file__).parents[1] / "sizes.py"))

CXX = """#define LOOK {
namespace {
template <typename T>
struct alignas(sizeof(T)) Row {
  explicit Row(T x) : values{x}, text("}") {
    // }
    if (x > 0) {
      use('}', 1'000);
    }
  }
  T values[4];
};
}  // namespace
const auto table = {f(1), f(2)};
int main() { return 0; }
"""

PYTHON = """def f(
    x: int,
) -> int:
    '''A docstring

    that counts for nothing.
    '''
    y = x
    return y
"""


def test_functions_of_cxx() -> None:
    assert [length for _, length in SIZES["cxx_functions"](CXX) if length > 0] == [4]


def test_functions_of_python() -> None:
    assert list(SIZES["python_functions"](PYTHON)) == [(1, 2)]


def test_what_is_too_large() -> None:
    text = "int f() {\n" + "  g();\n" * 61 + "}\n" + "\n" * 400
    found = list(SIZES["too_large"]("f.cpp", text))
    assert len(found) == 2 and found[1].startswith("f.cpp:1: a function of 61 lines")
