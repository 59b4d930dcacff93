"""What the documents say is so: code runs, C++ is compiled elsewhere, commands and files exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import myemb

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
PROGRAMS = sorted((ROOT / "examples" / "cpp").glob("*.cpp"))
FBGEMM = ROOT / ".cache" / "fbgemm" / "bin" / "python"

# <!-- not run: a reason --> before a block of Python says why.
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# Files that the documents name.
FILE = re.compile(
    r"`((?:csrc|cuda|python|tests|examples|benchmarks|cmake|requirements|docs)/[\w./-]+)`"
)
SCHEMA = re.compile(r"^```text\n(myemb::.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    language: str
    code: str
    reason: str | None


def blocks_of(document: Path, *languages: str) -> Iterator[Block]:
    for match in BLOCK.finditer(document.read_text(encoding="utf-8")):
        if match["language"] in languages:
            yield Block(match["language"], match["code"], match["reason"])


def named(documents: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "document", documents, ids=lambda path: str(path.relative_to(ROOT))
    )


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for files, and afterwards what a page has set for the whole process as it was."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("settings")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@named([document for document in DOCUMENTS if any(blocks_of(document, "python"))])
def test_python_runs(document: Path) -> None:
    """Each block goes on where the one before it stopped."""
    names: dict[str, object] = {"__name__": document.name}
    for number, block in enumerate(blocks_of(document, "python"), 1):
        code = compile(block.code, f"{document}, Python block {number}", "exec")
        if block.reason is None:
            exec(code, names)


def test_readme_shapes() -> None:
    names: dict[str, object] = {}
    exec(next(blocks_of(ROOT / "README.md", "python")).code, names)
    rows, means = names["rows"], names["means"]
    assert isinstance(rows, torch.Tensor) and rows.shape == (2, 4, 64)
    assert isinstance(means, torch.Tensor) and means.shape == (2, 64)


def lines_of(code: str) -> list[str]:
    return [re.sub(r"\s+", " ", line).strip() for line in code.splitlines() if line.strip()]


def test_cpp_is_part_of_a_program() -> None:
    """Of examples/cpp, whose programs tests/install compiles and runs."""
    programs = ["\n".join(lines_of(path.read_text(encoding="utf-8"))) for path in PROGRAMS]
    for document in DOCUMENTS:
        for block in blocks_of(document, "cpp"):
            if block.code.startswith("--8<--"):
                continue  # a section of one, which `make docs` looks for
            code = "\n".join(lines_of(block.code))
            assert any(code in program for program in programs), (document, block.code)


def test_sections_of_programs_exist() -> None:
    for document in DOCUMENTS:
        for name in re.findall(r'^--8<-- "(.+?)"$', document.read_text(), re.MULTILINE):
            path, _, section = name.partition(":")
            text = (ROOT / path).read_text(encoding="utf-8")
            assert not section or f"--8<-- [start:{section}]" in text, name


def test_commands_are_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        bash = "".join(block.code for block in blocks_of(document, "bash"))
        used = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", bash, re.M)
        assert set(used) <= targets, (document, set(used) - targets)


def test_every_command_is_explained() -> None:
    helped = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    explained = re.findall(r"\bmake ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert set(helped) <= set(explained)


def test_files_exist() -> None:
    for document in DOCUMENTS:
        for name in FILE.findall(document.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), (document, name)


def test_links_between_files() -> None:
    for document in [
        *DOCUMENTS,
        *(ROOT / "tests").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]:
        text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s:#]+)(?:#[^)\s]*)?\)", text):
            assert (document.parent / target).exists(), (document, target)


def test_everything_public_is_in_the_api() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: myemb\.(?:\w+\.)*(\w+)$", page, re.MULTILINE))
    modules = (myemb.convert, myemb.disk, myemb.functional, myemb.memory, myemb.nn, myemb.optim)
    assert {name for module in modules for name in module.__all__} <= shown


def joined(schema: str) -> str:
    return re.sub(r"\s+", " ", schema).strip()


def test_every_op_has_its_schema_in_a_page() -> None:
    shown: list[str] = []
    for page in sorted((ROOT / "docs" / "ops").glob("*.md")):
        shown += map(joined, SCHEMA.findall(page.read_text(encoding="utf-8")))
    ops = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("myemb::")]
    schemas = [str(getattr(torch.ops.myemb, op.split("::")[1]).default._schema) for op in ops]
    assert sorted(shown) == sorted(schemas)


@pytest.mark.skipif(not FBGEMM.exists(), reason="`make bench-fbgemm-env` installs FBGEMM")
def test_fbgemm_reaches_the_same_tables(tmp_path: Path) -> None:
    """The page of the migration from FBGEMM, its left column in FBGEMM's own environment."""
    theirs, ours, steps = blocks_of(ROOT / "docs" / "migration" / "fbgemm.md", "python")
    save = f"\ntorch.save([films.detach(), genres.detach()], {str(tmp_path / 'tables')!r})\n"
    program = theirs.code + steps.code + save
    subprocess.run([FBGEMM, "-c", program], check=True, capture_output=True)
    names: dict[str, object] = {}
    exec(ours.code + steps.code, names)
    for name, expected in zip(("films", "genres"), torch.load(tmp_path / "tables"), strict=True):
        torch.testing.assert_close(names[name], expected)
