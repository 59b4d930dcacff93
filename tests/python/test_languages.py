"""The language identifier of examples/: n-grams, snippets, downloads, a run on a small corpus."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from examples.common import download
from examples.languages import __main__ as program
from examples.languages import dataset
from examples.languages.engines import ENGINES, engine
from examples.languages.ngrams import LONGEST, NUM_ROWS, gram_bags
from examples.languages.train import Trainer
from rich.console import Console

PAGE = """<?xml version="1.0" encoding="utf-8"?>
<page xmlns="http://projectmallard.org/1.0/">
  <title>Einstellungen</title>
  <p>Klicken Sie auf <gui>Tastatur</gui>,
     um das <em>Panel</em> zu öffnen.</p>
  <note><p>Das ist alles.</p></note>
</page>"""


def row_of(gram: str) -> int:
    value = 0
    for character in gram:
        value = (value ^ ord(character)) * 0x9E3779B97F4A7C15 % 2**64
        value ^= value >> 29
    return value * 0x9E3779B97F4A7C15 % 2**64 >> 46


@pytest.mark.parametrize("texts", [["Hallo Welt", "", "Äöü", "東京 🚉"], [""], []])
def test_bags_of_ngrams_are_those_of_a_loop(texts: list[str]) -> None:
    bags = gram_bags(texts)
    expected = []
    for text in texts:
        padded = f" {text.lower()} "
        starts = range(len(padded))
        grams = [padded[i : i + n] for i in starts for n in range(1, 1 + LONGEST)]
        ends = [i + n for i in starts for n in range(1, 1 + LONGEST)]
        expected.append([row_of(g) for g, e in zip(grams, ends, strict=True) if e <= len(padded)])
    offsets = bags.offsets.tolist()
    assert len(offsets) == len(texts) + 1
    rows = bags.indices.tolist()
    assert [rows[a:b] for a, b in itertools.pairwise(offsets)] == expected


def test_rows_are_spread_over_the_table() -> None:
    rows = gram_bags(["".join(chr(0x4E00 + i) for i in range(20_000))]).indices
    assert rows.min() >= 0 and rows.max() < NUM_ROWS
    distinct = len(rows.unique()) / NUM_ROWS
    assert distinct == pytest.approx(1 - 2.718281828 ** -(len(rows) / NUM_ROWS), abs=0.01)


def test_snippets_are_cut_between_words() -> None:
    words = [f"word{i}" for i in range(100)]
    snippets = dataset.cut(" ".join(words))
    assert " ".join(snippets).split() == words
    assert all(100 < len(snippet) <= dataset.LONGEST_SNIPPET for snippet in snippets[:-1])


def test_snippets_of_a_text_without_spaces() -> None:
    assert list(map(len, dataset.cut("山" * 250))) == [120, 120, 10]


def test_short_snippets_are_left_out() -> None:
    assert dataset.cut("Click Next.") == []
    assert dataset.cut("請按一下鍵盤。") == ["請按一下鍵盤。"]


def test_paragraphs_are_without_markup() -> None:
    paragraphs = dataset.paragraphs_of(io.BytesIO(PAGE.encode()))
    assert paragraphs == ["Klicken Sie auf Tastatur, um das Panel zu öffnen.", "Das ist alles."]


def test_a_file_is_downloaded_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CACHE", tmp_path / "data")
    sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    calls = []

    def fetch(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("hello")

    path = download.cached("file", sha256, fetch)
    assert download.cached("file", sha256, fetch) == path
    assert calls == [path.parent]
    path.write_text("something else")
    with pytest.raises(RuntimeError, match="delete the file"):
        download.cached("file", sha256, fetch)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_lists_of_packages_are_fetched_if_they_are_missing(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command[1])
        fails = commands.count("download") <= failures
        return subprocess.CompletedProcess(command, 100 if fails else 0, "", "E: no such package")

    monkeypatch.setattr(dataset.shutil, "which", lambda name: name)
    monkeypatch.setattr(dataset.subprocess, "run", run)
    if failures < 2:
        dataset._download(tmp_path)
    else:
        with pytest.raises(RuntimeError, match=r"no such package\n.*apt-get update"):
            dataset._download(tmp_path)
    assert commands == ["download", "update", "download"][: 1 if failures == 0 else 3]


@pytest.fixture
def corpus() -> dataset.Corpus:
    """Three languages of a few words each, the first of LANGUAGES."""
    words = [["the", "hen", "is", "here"], ["een", "kip", "dat", "ligt"], ["wo", "ich", "zwei"]]
    labels = [number % len(words) for number in range(300)]
    random = torch.Generator().manual_seed(0)
    texts = []
    for label in labels:
        chosen = torch.randint(len(words[label]), (12,), generator=random).tolist()
        texts.append(" ".join(words[label][i] for i in chosen))
    numbers = torch.arange(300)
    return dataset.Corpus(texts, gram_bags(texts), torch.tensor(labels), numbers[30:], numbers[:30])


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.usefixtures("one_thread")
def test_engines_learn_the_same(corpus: dataset.Corpus) -> None:
    trainers = [Trainer(corpus, engine(name), seed=3, batch_size=32) for name in ENGINES]
    for trainer in trainers:
        trainer.run_epoch(lambda: None)
        trainer.run_epoch(lambda: None)
    theirs, ours = trainers
    assert theirs.epochs[-1].accuracy == ours.epochs[-1].accuracy == 1.0
    assert ours.epochs[-1].loss == pytest.approx(theirs.epochs[-1].loss, rel=1e-4)
    torch.testing.assert_close(
        ours.identify(["the hen", ""]), theirs.identify(["the hen", ""]), rtol=1e-3, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.usefixtures("one_thread")
def test_the_program_ends_when_nobody_types(
    corpus: dataset.Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "fetch", Path)
    monkeypatch.setattr(program, "load", lambda _: corpus)
    monkeypatch.setattr(
        "sys.argv", ["languages", "--no-plot", "--text", "the hen [red]", "een kip"]
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("ich\n"))
    assert program.main() == 0
    output = capsys.readouterr().out
    assert re.search(r"^ the hen \[red\] +English ", output, re.MULTILINE)
    assert re.search(r"^ een kip +Dutch ", output, re.MULTILINE)
    assert not re.search(r"^ ich ", output, re.MULTILINE)


@pytest.mark.usefixtures("one_thread")
def test_sentences_are_identified_until_an_empty_line(
    corpus: dataset.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(corpus, engine(ENGINES[-1]), seed=0, batch_size=16)
    for _ in range(3):
        trainer.run_epoch(lambda: None)
    console = Console(file=io.StringIO(), width=88)
    typed = iter(["ich zwei", "the hen", "", "een kip"])
    monkeypatch.setattr(console, "input", lambda _: next(typed))
    program.ask(trainer, console)
    output = console.file.getvalue()
    assert output.index("German") < output.index("English")
    assert next(typed) == "een kip"
